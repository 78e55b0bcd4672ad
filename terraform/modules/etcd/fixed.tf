# Shape fixed: instances one by one, each with a data volume that outlives it.

locals {
  names = length(var.addresses) > 0 ? sort(keys(var.addresses)) : [for i in range(var.size) : tostring(i)]

  # A node with a fixed address lies in the zone whose subnet holds the address; others go round the zones.
  nodes = local.is_fixed ? { for i, name in local.names : name => {
    address = lookup(var.addresses, name, null)
    zone = contains(keys(var.addresses), name) ? one([
      for zone, subnet in var.subnets : zone if cidrhost("${var.addresses[name]}/${split("/", subnet.cidr)[1]}", 0) == cidrhost(subnet.cidr, 0)
    ]) : local.zones[i % length(local.zones)]
  } } : {}

  new_volumes   = { for name, node in local.nodes : name => node if !contains(keys(var.existing_volumes), name) }
  kept_volumes  = local.at_destroy == "keep" ? local.new_volumes : {}
  other_volumes = local.at_destroy == "keep" ? {} : local.new_volumes
  volumes = merge(
    { for name, volume in merge(aws_ebs_volume.kept, aws_ebs_volume.data) : name => volume.id },
    { for name, volume in data.aws_ebs_volume.existing : name => volume.volume_id },
  )
}

resource "aws_instance" "node" {
  #checkov:skip=CKV_AWS_126:One-minute metrics cost extra; etcd-muster's own say more (docs/metrics.md)
  #checkov:skip=CKV_AWS_88:There is no public address: associate_public_ip_address is false
  for_each                    = local.nodes
  ami                         = local.ami
  instance_type               = var.instance_type
  subnet_id                   = var.subnets[each.value.zone].id
  private_ip                  = each.value.address
  associate_public_ip_address = false
  vpc_security_group_ids      = [local.member_group]
  iam_instance_profile        = aws_iam_instance_profile.member.name
  key_name                    = try(var.ssh.key_name, null)
  user_data_base64            = local.user_data[each.key]
  ebs_optimized               = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = local.bridged ? 2 : 1
    instance_metadata_tags      = "disabled"
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = local.root_size
    encrypted   = true
    kms_key_id  = var.data_volume.kms_key_arn
    tags        = merge(local.tags, { Name = "${var.name}-${each.key}-root" })
  }

  tags = merge(local.tags, var.filter_tags, { Name = "${var.name}-${each.key}" })

  lifecycle {
    # A newer image or other user data would replace, or restart, all members at once. They are replaced one by one:
    # terraform apply -replace='module.etcd.aws_instance.node["0"]'
    ignore_changes = [ami, user_data_base64]

    precondition {
      condition     = length(local.user_data[each.key]) / 4 * 3 <= local.max_user_data
      error_message = "The user data of node ${each.key} has ${length(nonsensitive(local.user_data[each.key])) / 4 * 3} bytes, and EC2 takes ${local.max_user_data}: fetch certificates by tls.files instead of inline_secrets."
    }
  }

  # Rights first: the machine asks EC2 as soon as it is up.
  depends_on = [aws_iam_role_policy.member, aws_vpc_security_group_ingress_rule.member, aws_vpc_security_group_egress_rule.member]
}

resource "aws_ebs_volume" "data" {
  for_each          = local.other_volumes
  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.data_volume.size
  iops              = var.data_volume.iops
  throughput        = var.data_volume.throughput
  encrypted         = true
  kms_key_id        = var.data_volume.kms_key_arn
  final_snapshot    = local.at_destroy == "snapshot"
  tags              = merge(local.tags, { Name = "${var.name}-${each.key}-data" })
}

# The same, guarded: a plan that would destroy one fails. `terraform state rm` gives it out of Terraform's hands, which
# is what scripts/run.sh --destroy does.
resource "aws_ebs_volume" "kept" {
  for_each          = local.kept_volumes
  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.data_volume.size
  iops              = var.data_volume.iops
  throughput        = var.data_volume.throughput
  encrypted         = true
  kms_key_id        = var.data_volume.kms_key_arn
  tags              = merge(local.tags, { Name = "${var.name}-${each.key}-data" })

  lifecycle {
    prevent_destroy = true
  }
}

# One that is there already is attached, and is nobody's to destroy.
data "aws_ebs_volume" "existing" {
  for_each = var.existing_volumes
  filter {
    name   = "volume-id"
    values = [each.value]
  }

  lifecycle {
    postcondition {
      condition     = self.availability_zone == local.nodes[each.key].zone
      error_message = "existing_volumes: ${each.value} lies in ${self.availability_zone}, and node ${each.key} (${local.nodes[each.key].address}) in ${local.nodes[each.key].zone}: a volume can't be attached across zones."
    }
  }
}

resource "aws_volume_attachment" "data" {
  for_each    = local.nodes
  device_name = "/dev/sdf"
  volume_id   = local.volumes[each.key]
  instance_id = aws_instance.node[each.key].id

  # etcd writes to it: the instance is stopped first.
  stop_instance_before_detaching = true
}

resource "aws_lb_target_group_attachment" "node" {
  for_each         = var.load_balancer ? local.nodes : {}
  target_group_arn = aws_lb_target_group.client[0].arn
  target_id        = aws_instance.node[each.key].id
}
