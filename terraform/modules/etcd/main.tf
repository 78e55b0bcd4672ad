# One etcd cluster: what its machines share. The two shapes are in fixed.tf and group.tf.

data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_caller_identity" "this" {}

locals {
  client_port = 2379
  peer_port   = 2380
  status_port = 2381

  is_fixed = var.shape == "fixed"
  zones    = sort(keys(var.subnets))
  tags     = merge(var.tags, { "etcd-muster/cluster" = var.name })

  root_size  = 16 # GiB; the publishers' images need 8 to 10
  at_destroy = coalesce(var.data_volume.at_destroy, local.is_fixed ? "snapshot" : "delete")

  partition = data.aws_partition.this.partition
  account   = "${data.aws_region.this.name}:${data.aws_caller_identity.this.account_id}"

  bridged        = var.runtime == "container" && var.container_network == "bridge"
  scheme         = var.tls.mode == "none" ? "http" : "https"
  launch_hook    = "etcd-launch"
  terminate_hook = "etcd-terminate"
  secret_nodes   = nonsensitive(keys(var.inline_secrets))
}

# What a cluster began with, and can't change while it lives: later values don't change its `output`.
resource "terraform_data" "founded" {
  input = {
    name        = var.name
    region      = data.aws_region.this.name
    shape       = var.shape
    filter_tags = var.filter_tags
    tls         = var.tls.mode
    named       = length(var.addresses) > 0
    subnets     = { for zone, subnet in var.subnets : zone => subnet.cidr }
  }

  lifecycle {
    ignore_changes = [input]
  }
}

locals {
  founded = terraform_data.founded.output
  # A zone's subnet can be added, not taken away.
  lost_zones = [for zone, cidr in local.founded.subnets : zone if try(var.subnets[zone].cidr, null) != cidr]
}

resource "terraform_data" "unchanged" {
  lifecycle {
    precondition {
      condition     = local.founded.region == data.aws_region.this.name
      error_message = "This cluster is in ${local.founded.region}, and region is ${data.aws_region.this.name} now, where all would be made anew: set it back, or give the other cluster a state of its own."
    }
    precondition {
      condition     = local.founded.name == var.name
      error_message = "This cluster's name is \"${local.founded.name}\", and \"${var.name}\" would make all its machines and groups anew at once: set it back, or give the other cluster a state of its own."
    }
    precondition {
      condition     = local.founded.shape == var.shape
      error_message = "This cluster's shape is ${local.founded.shape}, and ${var.shape} would end all its members at once: set it back, and move to new machines as docs/migrating.md says."
    }
    precondition {
      condition     = local.founded.filter_tags == var.filter_tags
      error_message = "This cluster's members find each other by ${join(",", [for k, v in local.founded.filter_tags : "${k}=${v}"])}; with other filter_tags old and new machines would not: set them back."
    }
    precondition {
      condition     = local.founded.tls == var.tls.mode
      error_message = "This cluster speaks tls = \"${local.founded.tls}\"; a machine with \"${var.tls.mode}\" could not join the others: set it back, and move by a snapshot to a new cluster (docs/recovery.md)."
    }
    precondition {
      condition     = local.founded.named == (length(var.addresses) > 0)
      error_message = "This cluster was made ${local.founded.named ? "with" : "without"} addresses, and its nodes are named accordingly; the change would make all of them anew at once: set addresses back."
    }
    precondition {
      condition     = length(local.lost_zones) == 0
      error_message = "Members may be in ${join(", ", local.lost_zones)}, whose subnet is missing or has another block now: subnets of a living cluster are added, not changed; give the old ones as well."
    }
  }
}

module "host" {
  source   = "../host"
  for_each = toset(local.is_fixed ? local.names : ["all"])

  os                = var.os
  runtime           = var.runtime
  binaries          = var.binaries
  image             = var.image
  container_network = var.container_network
  size              = var.size
  lifecycle_hooks   = local.is_fixed ? [] : [local.launch_hook, local.terminate_hook]
  filter_tags       = var.filter_tags
  claim             = local.claim
  snapshots         = var.snapshots == null ? null : merge(var.snapshots, { place = local.snapshots_place })
  environment       = var.environment
  tls = {
    mode       = var.tls.mode
    files      = var.tls.files == null ? null : local.is_fixed ? "${var.tls.files}/${each.key}" : var.tls.files
    ca_cert    = var.tls.ca_cert
    ca_key     = var.tls.ca_key
    extra_sans = concat(var.tls.mode == "minted" ? aws_lb.this[*].dns_name : [], var.tls.extra_sans) # else nobody waits for the balancer
  }
  inline_secrets = merge(lookup(var.inline_secrets, "all", {}), lookup(var.inline_secrets, each.key, {}))
}

locals {
  # cloud-init unpacks it by itself; Ignition's JSON has its files packed already.
  user_data = { for node, host in module.host : node => var.os == "ubuntu" ? base64gzip(host.user_data) : base64encode(host.user_data) }

  max_user_data = 16384 # bytes before base64; EC2's limit
}

check "secrets" {
  assert {
    condition     = length(local.secret_nodes) == 0
    error_message = "inline_secrets puts private keys into the user data: whoever may call ec2:DescribeInstanceAttribute, or any process on the machine, can read them, and so can readers of Terraform's state. tls.ca_key hands the CA's key over through Parameter Store instead."
  }
}

check "size" {
  assert {
    condition     = var.size % 2 == 1
    error_message = "A cluster of ${var.size} bears the loss of no more members than one of ${var.size - 1}: take an odd size."
  }
}

check "zones" {
  assert {
    condition     = var.size < 3 || length(var.subnets) >= 3
    error_message = "${var.size} members in ${length(var.subnets)} zones: the loss of one zone may cost the quorum (few_zones)."
  }
}

# The operating system's image.

locals {
  publishers = {
    ubuntu = {
      owner = "099720109477" # Canonical
      name  = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-${var.architecture == "arm64" ? "arm64" : "amd64"}-server-*"
    }
    flatcar = {
      owner = "075585003325" # the Flatcar project
      name  = "Flatcar-stable-*"
    }
    fcos = {
      owner = "125523088429" # the Fedora project
      name  = "fedora-coreos-*"
    }
  }
}

data "aws_ami" "os" {
  count       = var.ami_id == null ? 1 : 0
  most_recent = true
  owners      = [local.publishers[var.os].owner]

  filter {
    name   = "name"
    values = [local.publishers[var.os].name]
  }
  filter {
    name   = "architecture"
    values = [var.architecture]
  }
  filter {
    name   = "virtualization-type"
    values = ["hvm"]
  }
  # Fedora's streams differ by description only.
  dynamic "filter" {
    for_each = var.os == "fcos" ? ["Fedora CoreOS stable *"] : []
    content {
      name   = "description"
      values = [filter.value]
    }
  }
}

locals {
  ami = var.ami_id != null ? var.ami_id : data.aws_ami.os[0].id
}
