variable "os" {
  description = "The operating system: ubuntu (LTS, set up by cloud-init), flatcar or fcos (Fedora CoreOS), both set up by Ignition."
  type        = string
  validation {
    condition     = contains(["ubuntu", "flatcar", "fcos"], var.os)
    error_message = "os is ubuntu, flatcar or fcos; it is \"${var.os}\"."
  }
}

variable "runtime" {
  description = "binary: etcd and etcd-muster as plain programs under systemd. container: the image, by docker (fcos: podman)."
  type        = string
  validation {
    condition     = contains(["binary", "container"], var.runtime)
    error_message = "runtime is binary or container; it is \"${var.runtime}\"."
  }
}

variable "binaries" {
  description = "What runtime = binary runs: .tar.gz archives that hold, at any depth, etcd, etcdctl, etcdutl, etcd-muster. `source` is s3://bucket/key (read with the instance's role) or https://…"
  type = list(object({
    source = string
    sha256 = string
  }))
  default  = []
  nullable = false
  validation {
    condition     = var.runtime != "binary" || length(var.binaries) > 0
    error_message = "runtime = \"binary\" needs binaries: at least one archive with etcd, etcdctl and etcd-muster in it."
  }
  validation {
    condition     = alltrue([for b in var.binaries : can(regex("^(s3://[a-z0-9][a-z0-9.-]+/[A-Za-z0-9._/-]+|https://[^\\s\"]+)$", b.source))])
    error_message = "The source of each of binaries is s3://bucket/key (letters, digits, . _ - /) or https://…, without blanks."
  }
  validation {
    condition     = alltrue([for b in var.binaries : can(regex("^[0-9a-f]{64}$", b.sha256))])
    error_message = "Each of binaries needs its sha256: 64 digits of 0-9a-f, as sha256sum prints them."
  }
}

variable "image" {
  description = "What runtime = container runs: `name` as `docker run` takes it. With `archive` (an image tarball, s3://… or https://…) it is loaded from there and no registry is asked."
  type = object({
    name = string
    archive = optional(object({
      source = string
      sha256 = string
    }))
  })
  default = null
  validation {
    condition     = var.runtime != "container" || var.image != null
    error_message = "runtime = \"container\" needs image = { name = \"registry.example.com/etcd-muster:1.0\" }, and an archive where there is no registry."
  }
  validation {
    condition     = var.image == null || can(regex("^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", var.image.name))
    error_message = "image.name is a name as docker run takes it: registry.example.com/etcd-muster:1.0, or with @sha256:…"
  }
  validation {
    condition     = try(var.image.archive, null) == null || can(regex("^(s3://[a-z0-9][a-z0-9.-]+/[A-Za-z0-9._/-]+|https://[^\\s\"]+) [0-9a-f]{64}$", "${var.image.archive.source} ${var.image.archive.sha256}"))
    error_message = "image.archive needs source (s3://bucket/key or https://…, without blanks) and sha256 (64 digits of 0-9a-f)."
  }
}

variable "container_network" {
  description = "host: the container has the instance's own network. bridge: its ports are published; the instance's metadata service then needs hop limit 2."
  type        = string
  default     = "host"
  nullable    = false
  validation {
    condition     = contains(["host", "bridge"], var.container_network)
    error_message = "container_network is host or bridge; it is \"${var.container_network}\"."
  }
}

variable "size" {
  description = "How many members the cluster has."
  type        = number
}

variable "lifecycle_hooks" {
  description = "The Auto Scaling group's hooks that the member completes; none in shape fixed."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "filter_tags" {
  description = "The tags by which the instances find each other."
  type        = map(string)
  default     = { etcd = "1" }
}

variable "claim" {
  description = "s3://bucket/prefix of the object that decides the first members; null: none."
  type        = string
  default     = null
}

variable "snapshots" {
  description = "Snapshots: `place` is s3://bucket/prefix, the others are MUSTER_SNAPSHOT_EVERY and so on; null: the program's own default."
  type = object({
    place  = string
    every  = optional(string)
    keep   = optional(string)
    verify = optional(string)
    key    = optional(string)
    sse    = optional(string)
  })
  default = null
}

variable "environment" {
  description = "More variables of etcd-muster or etcd. They win over those that are set here; an empty one is left out. They land in the machines' user data and in Terraform's state, where whoever may read those reads them: no secrets."
  type        = map(string)
  default     = {}
  nullable    = false
  validation {
    condition     = alltrue([for k, v in var.environment : can(regex("^[A-Z][A-Z0-9_]*$", k)) && can(regex("^([^\\s\"'\\\\#]|[^\\s\"'\\\\#][^\"'\\\\\\n\\r]*[^\\s\"'\\\\])?$", v))])
    error_message = "The file these are written to is read by systemd and by docker, who quote differently: names are capitals, digits and _; values hold no quotes, backslashes or line breaks, don't start with #, and have no blanks at either end."
  }
}

variable "tls" {
  description = "As modules/etcd has it; `files` is where this machine's own certificates lie."
  type = object({
    mode       = string
    files      = optional(string)
    ca_cert    = optional(string)
    ca_key     = optional(string)
    extra_sans = optional(list(string), [])
  })
  default  = { mode = "none" }
  nullable = false
}

variable "inline_secrets" {
  description = "Files for the directory of certificates, name to PEM. Whoever may read the instance's user data (ec2:DescribeInstanceAttribute, the metadata service) can read them."
  type        = map(string)
  default     = {}
  nullable    = false
  sensitive   = true
}
