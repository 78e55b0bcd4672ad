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

  new_volumes = { for name, node in local.nodes : name => node if !contains(keys(var.existing_volumes), name) }
  volumes = merge(
    { for name, volume in aws_ebs_volume.data : name => volume.id },
    { for name, volume in data.aws_ebs_volume.existing : name => volume.volume_id },
  )
  # Where a node is, is its volume's to say: a volume never changes its zone, and the zones that are given may.
  zone_of = merge(
    { for name, volume in aws_ebs_volume.data : name => volume.availability_zone },
    { for name, volume in data.aws_ebs_volume.existing : name => volume.availability_zone },
  )
}

resource "aws_instance" "node" {
  #checkov:skip=CKV_AWS_126:One-minute metrics cost extra; etcd-muster's own say more (docs/metrics.md)
  #checkov:skip=CKV_AWS_88:There is no public address: associate_public_ip_address is false
  for_each                    = local.nodes
  ami                         = local.ami
  instance_type               = var.instance_type
  subnet_id                   = var.subnets[local.zone_of[each.key]].id
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
    # Each of these would replace, or restart, all members at once. They hold for machines to come, and scripts/run.sh --roll
    # replaces those that are here one by one; by hand: terraform apply -replace='module.etcd.aws_instance.node["0"]'
    ignore_changes = [
      ami, user_data_base64, instance_type, key_name, subnet_id, private_ip, root_block_device[0].kms_key_id,
    ]

    precondition {
      condition     = contains(keys(var.subnets), local.zone_of[each.key])
      error_message = "Node ${each.key} and its data volume are in ${local.zone_of[each.key]}, and subnets has none there: give that zone its subnet again."
    }
    precondition {
      condition     = each.value.address == null || each.value.zone == local.zone_of[each.key]
      error_message = "addresses: ${coalesce(each.value.address, "-")} is in ${coalesce(each.value.zone, "-")}, and the data volume of node ${each.key} in ${local.zone_of[each.key]}, where it stays: choose an address there."
    }
    precondition {
      condition     = length(local.user_data[each.key]) / 4 * 3 <= local.max_user_data
      error_message = "The user data of node ${each.key} has ${length(nonsensitive(local.user_data[each.key])) / 4 * 3} bytes, and EC2 takes ${local.max_user_data}: fetch certificates by tls.files instead of inline_secrets."
    }
  }

  # Rights first: the machine asks EC2 as soon as it is up.
  depends_on = [aws_iam_role_policy.member, aws_vpc_security_group_ingress_rule.member, aws_vpc_security_group_egress_rule.member]
}

# Its address in the state is the node's name and nothing that is changed later; nor does any value replace it.
resource "aws_ebs_volume" "data" {
  for_each          = local.new_volumes
  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.data_volume.size
  iops              = var.data_volume.iops
  throughput        = var.data_volume.throughput
  encrypted         = true
  kms_key_id        = var.data_volume.kms_key_arn
  final_snapshot    = local.at_destroy != "delete" # of one to be kept, too: if it ends all the same, that is left of it
  tags              = merge(local.tags, { Name = "${var.name}-${each.key}-data" })

  lifecycle {
    # EC2 can't change them; Terraform would make new volumes, empty ones. They hold for volumes to come.
    ignore_changes = [availability_zone, encrypted, kms_key_id]
  }
}

moved {
  from = aws_ebs_volume.kept
  to   = aws_ebs_volume.data
}

# What at_destroy = "keep" means: a plan that would destroy or replace a volume would do so to its guard as well, and fails. `terraform
# state rm` of both gives the volume out of Terraform's hands, which is what scripts/run.sh --destroy does; of the guards alone, it
# takes back the "keep".
resource "terraform_data" "kept" {
  for_each = local.at_destroy == "keep" ? local.new_volumes : {}
  input    = aws_ebs_volume.data[each.key].id

  lifecycle {
    prevent_destroy      = true
    replace_triggered_by = [aws_ebs_volume.data[each.key].id]
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

  lifecycle {
    precondition {
      condition     = terraform_data.node[each.key].output.volume == lookup(var.existing_volumes, each.key, "")
      error_message = "existing_volumes: node ${each.key} lives on another volume (${try(coalesce(terraform_data.node[each.key].output.volume), "one that was made for it")}), which would be exchanged: give existing_volumes as it was; to exchange it on purpose: -replace='module.instance_etcd.terraform_data.node[\"${each.key}\"]'."
    }
  }
}

# What a node began with: later values don't change its `output`.
resource "terraform_data" "node" {
  for_each = local.nodes
  input    = { volume = lookup(var.existing_volumes, each.key, "") }

  lifecycle {
    ignore_changes = [input]
  }
}

resource "aws_lb_target_group_attachment" "node" {
  for_each         = var.load_balancer ? local.nodes : {}
  target_group_arn = aws_lb_target_group.client[0].arn
  target_id        = aws_instance.node[each.key].id
}
