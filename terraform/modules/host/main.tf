# What a machine of the cluster is told at its first boot. Pure: values in, text out, no provider; so every combination
# can be rendered and checked without a cloud.

locals {
  etc    = "/etc/etcd-muster"
  opt    = "/opt/etcd"
  var    = "/var/lib/etcd"
  engine = var.os == "fcos" ? "/usr/bin/podman" : "/usr/bin/docker"
  is_bin = var.runtime == "binary"

  # A container has them where the image says; a plain program has to be told.
  places = local.is_bin ? {
    ED_HOME = local.opt
    ED_DATA = "${local.var}/data"
    ED_WAL  = "${local.var}/wal"
    ED_SSL  = "${local.etc}/ssl"
  } : {}
  ssl_dir = local.is_bin ? "${local.etc}/ssl" : "/etcd/ssl"

  # Said outright: with the program's default, a file that is missing would mean plain HTTP.
  https  = { CLNT_SCHEMA = "https", PEER_SCHEMA = "https" }
  scheme = var.tls.mode == "none" ? "http" : "https"
  tls = {
    none      = {}
    automatic = { ETCD_AUTO_TLS = "true", ETCD_PEER_AUTO_TLS = "true" }
    files     = local.https
    minted = merge(local.https, {
      MUSTER_CA_CERT    = "${local.ssl_dir}/ca.crt"
      MUSTER_CA_KEY     = var.tls.ca_key == null ? "${local.ssl_dir}/ca.key" : "ssm:${var.tls.ca_key}"
      MUSTER_EXTRA_SANS = join(",", var.tls.extra_sans)
    })
  }

  environment = { for k, v in merge(
    local.places,
    {
      MUSTER_CLUSTER_SIZE  = tostring(var.size)
      MUSTER_STATUS_LISTEN = "0.0.0.0:2381" # the load balancer's health check; the security group lets only that in
      ETCD_MEMBER_TYPE     = "ip"
    },
    # The program's own default is etcd=1.
    var.filter_tags == tomap({ etcd = "1" }) ? {} : { MUSTER_TAGS = join(",", [for k, v in var.filter_tags : "${k}=${v}"]) },
    var.claim == null ? {} : { MUSTER_CLAIM = var.claim },
    var.snapshots == null ? {} : { for name, value in {
      MUSTER_SNAPSHOTS       = var.snapshots.place
      MUSTER_SNAPSHOT_EVERY  = var.snapshots.every
      MUSTER_SNAPSHOT_KEEP   = var.snapshots.keep
      MUSTER_SNAPSHOT_VERIFY = var.snapshots.verify
      MUSTER_SNAPSHOT_KEY    = var.snapshots.key
      MUSTER_SNAPSHOT_SSE    = var.snapshots.sse
    } : name => value if value != null },
    local.tls[var.tls.mode],
    length(var.lifecycle_hooks) == 0 ? {} : { MUSTER_LEAVE = "on-terminate", MUSTER_LIFECYCLE_HOOK = join(",", var.lifecycle_hooks) },
    # In a bridged container the instance's address is nobody's; the ports are published there.
    local.is_bin || var.container_network == "host" ? {} : {
      ETCD_LISTEN_CLIENT_URLS = "${local.scheme}://0.0.0.0:2379"
      ETCD_LISTEN_PEER_URLS   = "${local.scheme}://0.0.0.0:2380"
    },
    var.environment,
  ) : k => v if v != "" }

  archive = try(var.image.archive, null)
  # A registry of ECR asks for a password that is made anew each time: etcd-fetch pulls by the instance's role.
  ecr = try(regex("^([0-9]{12}\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?)/", var.image.name), null)
  fetch = concat(
    local.is_bin ? [for b in var.binaries : "binaries ${b.source} ${b.sha256}"] : [],
    !local.is_bin && local.archive != null ? ["image ${local.archive.source} ${local.archive.sha256}"] : [],
    !local.is_bin && local.archive == null && local.ecr != null ? ["ecr ${join(" ", local.ecr)}"] : [],
    var.tls.mode == "files" && var.tls.files != null ? ["ssl ${var.tls.files}"] : [],
  )

  unit = templatefile("${path.module}/files/${var.runtime}.service.tftpl", {
    engine  = local.engine
    image   = try(var.image.name, "")
    network = var.container_network
    needs   = local.engine == "/usr/bin/docker" ? "docker.service" : ""
  })

  # Machines that update and reboot by themselves, all in one night, would take the quorum with them.
  stay_up = {
    ubuntu  = {}
    flatcar = { "/etc/flatcar/update.conf" = { mode = "0644", text = "REBOOT_STRATEGY=off\n" } }
    fcos    = { "/etc/zincati/config.d/90-no-reboots.toml" = { mode = "0644", text = "[updates]\nenabled = false\n" } }
  }

  files = merge(
    {
      "${local.etc}/env"              = { mode = "0640", text = join("", [for k, v in local.environment : "${k}=${v}\n"]) }
      "${local.etc}/fetch"            = { mode = "0644", text = join("", [for line in local.fetch : "${line}\n"]) }
      "${local.opt}/bin/etcd-prepare" = { mode = "0755", text = file("${path.module}/files/etcd-prepare") }
      "${local.opt}/bin/etcd-fetch"   = { mode = "0755", text = file("${path.module}/files/etcd-fetch") }
      "${local.opt}/bin/node-etcdctl" = { mode = "0755", text = file("${path.module}/files/node-etcdctl-${var.runtime}") }
      "${local.opt}/bin/node-muster"  = { mode = "0755", text = file("${path.module}/files/node-muster-${var.runtime}") }
    },
    var.tls.mode == "minted" ? { "${local.etc}/ssl/ca.crt" = { mode = "0644", text = var.tls.ca_cert } } : {},
    { for name, pem in var.inline_secrets : "${local.etc}/ssl/${name}" => { mode = "0400", text = pem } },
    local.stay_up[var.os],
  )

  cloud_config = {
    write_files = concat(
      [for path, f in local.files : { path = path, permissions = f.mode, content = f.text }],
      [{ path = "/etc/systemd/system/etcd.service", permissions = "0644", content = local.unit }],
    )
    runcmd = concat(
      local.is_bin ? [] : [["sh", "-c", "command -v docker >/dev/null || { apt-get update && apt-get install --yes docker.io; }"]],
      [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", "--no-block", "etcd.service"]],
    )
  }

  ignition = {
    ignition = { version = "3.3.0" }
    storage = {
      files = [for path, f in local.files : {
        path      = path
        mode      = parseint(f.mode, 8)
        overwrite = true
        contents  = { source = "data:;base64,${base64gzip(f.text)}", compression = "gzip" }
      }]
    }
    systemd = { units = [{ name = "etcd.service", enabled = true, contents = local.unit }] }
  }
}
