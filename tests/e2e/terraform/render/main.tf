# Every kind of machine there is, rendered without a cloud: shape x operating system x what is run x TLS.

variable "ca_cert" {
  type = string
}

variable "ca_key" {
  type = string
}

locals {
  archive = { source = "s3://etcd-bucket/release.tar.gz", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }

  shapes = {
    fixed = []
    group = ["etcd-launch", "etcd-terminate"]
  }
  runs = {
    binary   = { runtime = "binary", image = null, network = "host" }
    registry = { runtime = "container", image = { name = "registry.example.com/etcd-muster:1.0" }, network = "host" }
    archive  = { runtime = "container", image = { name = "etcd-muster:1.0", archive = local.archive }, network = "host" }
    bridged  = { runtime = "container", image = { name = "etcd-muster:1.0", archive = local.archive }, network = "bridge" }
  }
  tls = {
    none      = { mode = "none" }
    automatic = { mode = "automatic" }
    files     = { mode = "files", files = "s3://etcd-bucket/tls" }
    minted    = { mode = "minted", ca_cert = var.ca_cert, ca_key = "/etcd/ca-key", extra_sans = ["etcd.example.com"] }
    inline    = { mode = "minted", ca_cert = var.ca_cert, extra_sans = ["etcd.example.com"] }
  }

  # With one of the kinds of TLS, so that there are machines with and without.
  snapshots = {
    minted = { place = "s3://backups/etcd/blue", every = "30m", keep = "48h,14d", verify = "restore", key = "ssm:/etcd/snapshot-key", sse = "aws:kms" }
  }

  combinations = { for c in setproduct(keys(local.shapes), ["ubuntu", "flatcar", "fcos"], keys(local.runs), keys(local.tls)) : join(" ", c) => c }
}

module "host" {
  source   = "../../../../terraform/modules/host"
  for_each = local.combinations

  size              = 3
  lifecycle_hooks   = local.shapes[each.value[0]]
  os                = each.value[1]
  runtime           = local.runs[each.value[2]].runtime
  binaries          = [local.archive]
  image             = local.runs[each.value[2]].image
  container_network = local.runs[each.value[2]].network
  snapshots         = lookup(local.snapshots, each.value[3], null)
  tls               = local.tls[each.value[3]]
  inline_secrets    = each.value[3] == "inline" ? { "ca.key" = var.ca_key } : {}
}

output "hosts" {
  value     = { for name, host in module.host : name => { user_data = host.user_data, environment = host.environment } }
  sensitive = true
}
