# Shape group: an Auto Scaling group whose hooks hold every launch until the new member votes, and every termination
# until the old one has left.

resource "aws_launch_template" "this" {
  count                  = local.is_fixed ? 0 : 1
  name_prefix            = "${var.name}-"
  image_id               = local.ami
  instance_type          = var.instance_type
  key_name               = try(var.ssh.key_name, null)
  user_data              = local.user_data["all"]
  ebs_optimized          = true
  update_default_version = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.member.arn
  }

  network_interfaces {
    associate_public_ip_address = false
    security_groups             = [local.member_group]
    delete_on_termination       = true
  }

  metadata_options {
    #checkov:skip=CKV_AWS_341:Two hops only where a bridged container needs them
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = local.bridged ? 2 : 1
    instance_metadata_tags      = "disabled"
  }

  block_device_mappings {
    device_name = var.os == "ubuntu" ? "/dev/sda1" : "/dev/xvda" # the root volume, as the publishers name it
    ebs {
      volume_type           = "gp3"
      volume_size           = local.root_size
      encrypted             = "true"
      kms_key_id            = var.data_volume.kms_key_arn
      delete_on_termination = "true"
    }
  }

  block_device_mappings {
    device_name = "/dev/sdf"
    ebs {
      volume_type           = "gp3"
      volume_size           = var.data_volume.size
      iops                  = var.data_volume.iops
      throughput            = var.data_volume.throughput
      encrypted             = "true"
      kms_key_id            = var.data_volume.kms_key_arn
      delete_on_termination = tostring(local.at_destroy == "delete")
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume"])
    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = var.name }, tag_specifications.value == "instance" ? var.filter_tags : {})
    }
  }

  tags = local.tags

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = length(local.user_data["all"]) / 4 * 3 <= local.max_user_data
      error_message = "The user data has ${length(nonsensitive(local.user_data["all"])) / 4 * 3} bytes, and EC2 takes ${local.max_user_data}: fetch certificates by tls.files instead of inline_secrets."
    }
  }
}

resource "aws_autoscaling_group" "this" {
  #checkov:skip=CKV_AWS_315:It has a launch template; the check doesn't see one with a count
  count               = local.is_fixed ? 0 : 1
  name                = var.name
  min_size            = var.size
  max_size            = var.size
  desired_capacity    = var.size
  vpc_zone_identifier = [for zone in local.zones : var.subnets[zone].id]
  target_group_arns   = aws_lb_target_group.client[*].arn

  # Never "ELB": without a quorum no member is ready, and the group would end them all, data and all.
  health_check_type         = "EC2"
  health_check_grace_period = 300
  wait_for_capacity_timeout = "20m" # in service is who votes, so an apply that ends well leaves a healthy cluster

  # Rebalancing launches before it terminates: in a cluster that has all its members the new one would be a spare and wait in vain.
  suspended_processes = ["AZRebalance"]
  instance_maintenance_policy {
    min_healthy_percentage = local.healthy_percentage
    max_healthy_percentage = 100
  }

  launch_template {
    id      = aws_launch_template.this[0].id
    version = aws_launch_template.this[0].latest_version
  }

  initial_lifecycle_hook {
    name                 = local.launch_hook
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = 1800
    default_result       = "ABANDON" # who doesn't vote after half an hour is replaced
  }
  initial_lifecycle_hook {
    name                 = local.terminate_hook
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 120
    default_result       = "CONTINUE"
  }

  # One at a time, the next only when the launch hook says that the one before votes.
  instance_refresh {
    strategy = "Rolling"
    preferences {
      min_healthy_percentage = local.healthy_percentage
      max_healthy_percentage = 100
      instance_warmup        = 0
    }
  }

  dynamic "tag" {
    for_each = merge(local.tags, var.filter_tags, { Name = var.name })
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  depends_on = [aws_iam_role_policy.member, aws_vpc_security_group_ingress_rule.member, aws_vpc_security_group_egress_rule.member]
}

locals {
  healthy_percentage = floor(100 * (var.size - 1) / var.size) # all but one
}
