# What a plan would do to the members of a cluster, read from `terraform show -json`. No provider and no state: scripts/run.sh asks for
# local.verdict by `terraform console`.

terraform {
  required_version = ">= 1.11, < 2.0"
}

variable "plan" {
  description = "The file with the plan as JSON."
  type        = string
}

locals {
  changes = [for c in lookup(jsondecode(file(var.plan)), "resource_changes", []) : {
    at      = replace(c.address, "\"", "")
    what    = startswith(c.address, "module.instance_etcd.") ? "${c.type}.${c.name}" : "other.${c.type}"
    node    = try(tostring(c.index), "")
    ends    = contains(c.change.actions, "delete")
    made    = contains(c.change.actions, "create")
    updated = c.change.actions == tolist(["update"]) || c.change.actions == ["update"]
    before  = c.change.before
    after   = c.change.after
  } if c.mode == "managed" && !contains(c.change.actions, "no-op")]

  # Attributes for which the provider stops an instance.
  stops = ["instance_type", "user_data", "user_data_base64", "ebs_optimized", "cpu_options", "placement_group", "hibernation"]

  instances = [for c in local.changes : c if c.what == "aws_instance.node"]
  leaving   = [for c in local.instances : c.node if c.ends && !c.made]
  replaced  = [for c in local.instances : c.node if c.ends && c.made]
  stopped = concat(
    [for c in local.instances : c.node if c.updated && anytrue([for name in local.stops : try(jsonencode(c.before[name]) != jsonencode(c.after[name]), false)])],
    [for c in local.changes : c.node if c.ends && c.what == "aws_volume_attachment.data"],
  )
  emptied = [for c in local.changes : c.node if c.ends && contains(["aws_ebs_volume.data", "aws_ebs_volume.kept"], c.what)]
  shrunk  = [for c in local.changes : c.node if c.updated && c.what == "aws_ebs_volume.data" && try(c.before.size > c.after.size, false)]

  # Members that stay in the cluster and are away for a while.
  away = setsubtract(toset(concat(local.replaced, local.stopped, local.emptied)), toset(local.leaving))

  groups   = [for c in local.changes : c if c.what == "aws_autoscaling_group.this"]
  fewer    = sum(concat([0], [for c in local.groups : try(c.before.desired_capacity - c.after.desired_capacity, 0) if c.updated]))
  foreign  = [for c in local.changes : c.at if c.ends && contains(["other.aws_instance", "other.aws_autoscaling_group", "other.aws_ebs_volume"], c.what)]
  networks = [for c in local.changes : c.at if c.ends && contains(["other.aws_vpc", "other.aws_subnet"], c.what)]

  # One word, and what it is about; the gravest first.
  verdict = join(" ", (
    length(local.foreign) > 0 ? concat(["foreign"], local.foreign) :
    length([for c in local.groups : c if c.ends]) > 0 ? ["group"] :
    length(local.networks) > 0 ? concat(["network"], local.networks) :
    length(local.shrunk) > 0 ? concat(["shrunk"], local.shrunk) :
    length(local.emptied) > 0 && length(setsubtract(local.emptied, local.leaving)) > 1 ? concat(["emptied"], sort(setsubtract(local.emptied, local.leaving))) :
    length(local.leaving) > 0 ? (length(local.away) > 0 ? concat(["mixed"], local.leaving) : concat(["leaving"], local.leaving)) :
    length(local.away) > 0 ? concat(["away"], sort(local.away)) :
    local.fewer > 0 ? ["fewer", tostring(local.fewer)] :
    ["none"]
  ))
}
