# The cluster.

variable "name" {
  description = "The cluster's name: its resources are named by it, the load balancer too, which takes 32 characters."
  type        = string
  default     = "etcd"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,23}[a-z0-9]$", var.name))
    error_message = "name is 2 to 25 of a-z, 0-9 and -, beginning with a letter and not ending with -; the load balancer's name is made of it."
  }
}

variable "shape" {
  description = "fixed: instances that Terraform makes one by one, each with a data volume of its own. group: an Auto Scaling group, which replaces what fails, and refreshes one by one when its template changes."
  type        = string
  default     = "fixed"
  validation {
    condition     = contains(["fixed", "group"], var.shape)
    error_message = "shape is fixed or group; it is \"${var.shape}\"."
  }
}

variable "size" {
  description = "How many members the cluster has: 3 or 5; 1 and 2 to play with."
  type        = number
  default     = 3
  validation {
    condition     = contains([1, 2, 3, 4, 5, 6, 7], var.size)
    error_message = "size is 1 to 7: every write goes to every member, so that more make it slower, not safer."
  }
}

variable "addresses" {
  description = "Fixed private addresses, node name to address, for certificates that are made beforehand. Empty: EC2 chooses, and `size` counts. Shape fixed only."
  type        = map(string)
  default     = {}
  nullable    = false
  validation {
    condition     = length(var.addresses) == 0 || (var.shape == "fixed" && length(var.addresses) == var.size)
    error_message = "addresses names ${length(var.addresses)} nodes: it is for shape = \"fixed\", and as many as size (${var.size})."
  }
  validation {
    condition     = alltrue([for name, address in var.addresses : can(regex("^[a-z0-9-]+$", name)) && can(cidrhost("${address}/32", 0))])
    error_message = "addresses maps names (a-z, 0-9, -) to IPv4 addresses, as { a = \"10.20.0.10\" }."
  }
  validation {
    condition     = length(distinct(values(var.addresses))) == length(var.addresses)
    error_message = "addresses gives the same address to two nodes."
  }
  validation {
    condition     = alltrue([for address in values(var.addresses) : anytrue([for s in var.subnets : try(cidrhost("${address}/${split("/", s.cidr)[1]}", 0) == cidrhost(s.cidr, 0), true)])])
    error_message = "Each of addresses (${join(", ", values(var.addresses))}) must lie in one of the subnets (${join(", ", [for s in var.subnets : s.cidr])})."
  }
}

variable "filter_tags" {
  description = "The tags by which the instances find each other, and which every one of them gets. A second cluster in the same account needs other ones."
  type        = map(string)
  default     = { etcd = "1" }
  validation {
    condition     = length(var.filter_tags) > 0 && alltrue([for k, v in var.filter_tags : can(regex("^[A-Za-z0-9_.:/+@-]+=[A-Za-z0-9_.:/+@-]*$", "${k}=${v}"))])
    error_message = "filter_tags needs at least one tag, of letters, digits and _.:/+@-: they are joined as key=value,key=value for MUSTER_TAGS."
  }
}

variable "claim" {
  description = "Where the object is that decides the first members (MUSTER_CLAIM): own, in a bucket that is made for it and goes with the cluster; or s3://bucket/prefix; null: the members agree among themselves."
  type        = string
  default     = "own"
  validation {
    condition     = var.claim == null || var.claim == "own" || can(regex("^s3://[a-z0-9][a-z0-9.-]+/[A-Za-z0-9._/-]*[A-Za-z0-9._-]$", var.claim))
    error_message = "claim is own, or s3://bucket/prefix without a slash at the end, as s3://my-bucket/etcd/prod, or null."
  }
}

variable "snapshots" {
  description = <<-EOT
    Snapshots of etcd, stored in S3 (docs/snapshots.md); null: none. `{}` is enough.
    place is s3://bucket/prefix of a bucket that is there; null: one is made, versioned, encrypted, by https only, not to be destroyed;
    every, keep, verify, sse are MUSTER_SNAPSHOT_EVERY and so on; null: the program's own default;
    kms_key_arn is the key by which S3 encrypts in the bucket, if it is one of yours (sse = "aws:kms:ARN" names it as well);
    key is MUSTER_SNAPSHOT_KEY: ssm:/name of a SecureString in Parameter Store, or a file on the machines; key_kms_key_arn is the key by which that parameter is encrypted, if it isn't the account's own;
    delete = false leaves out the right to delete: then nothing goes, whatever keep says.
    Of the bucket that is made: noncurrent_days is how long a snapshot stays after it was deleted, object_lock = { mode = "GOVERNANCE" or "COMPLIANCE", days = … } how long no one can delete it for good.
  EOT
  type = object({
    place           = optional(string)
    every           = optional(string)
    keep            = optional(string)
    verify          = optional(string)
    sse             = optional(string)
    kms_key_arn     = optional(string)
    key             = optional(string)
    key_kms_key_arn = optional(string)
    delete          = optional(bool, true)
    noncurrent_days = optional(number, 30)
    object_lock = optional(object({
      mode = optional(string, "GOVERNANCE")
      days = number
    }))
  })
  default = null
  validation {
    condition     = try(var.snapshots.place, null) == null || can(regex("^s3://[a-z0-9][a-z0-9.-]+/[A-Za-z0-9._/-]*[A-Za-z0-9._-]$", var.snapshots.place))
    error_message = "snapshots.place is s3://bucket/prefix, without a slash at the end, as s3://my-bucket/etcd/prod; null: a bucket is made."
  }
  validation {
    condition     = try(var.snapshots.every, null) == null || can(regex("^[0-9]+(ms|s|m|h|d)?$", var.snapshots.every))
    error_message = "snapshots.every is a duration, as 1h; 0: none but by hand."
  }
  validation {
    condition     = try(var.snapshots.keep, null) == null || can(regex("^[0-9]+[hdw](,[0-9]+[hdw]){0,2}$", var.snapshots.keep))
    error_message = "snapshots.keep is 24h,7d,4w: of how many hours, days and weeks the newest one is kept."
  }
  validation {
    condition     = try(var.snapshots.verify, null) == null || contains(["digest", "restore"], coalesce(try(var.snapshots.verify, null), "digest"))
    error_message = "snapshots.verify is digest or restore."
  }
  validation {
    condition     = try(var.snapshots.sse, null) == null || can(regex("^(aws:kms|aws:kms:arn:[a-z0-9-]+:kms:[A-Za-z0-9:/-]+|/.+)$", var.snapshots.sse))
    error_message = "snapshots.sse is aws:kms, aws:kms:ARN (rights are given by ARN), or a file on the machines with a customer key."
  }
  validation {
    condition     = try(var.snapshots.kms_key_arn, null) == null || try(contains(["aws:kms", "aws:kms:${var.snapshots.kms_key_arn}"], coalesce(var.snapshots.sse, "aws:kms")), false)
    error_message = "snapshots.sse and snapshots.kms_key_arn name two keys: give one of them."
  }
  validation {
    condition     = try(var.snapshots.key, null) == null || can(regex("^(ssm:)?/[A-Za-z0-9_./-]+$", var.snapshots.key))
    error_message = "snapshots.key is ssm:/name, a parameter's name with a slash in front, or the path of a file on the machines."
  }
  validation {
    condition     = try(var.snapshots.key_kms_key_arn, null) == null || can(regex("^ssm:", var.snapshots.key))
    error_message = "snapshots.key_kms_key_arn is for a key in Parameter Store: snapshots.key = \"ssm:/name\"."
  }
  validation {
    condition     = try(var.snapshots.object_lock, null) == null || try(var.snapshots.place == null && contains(["GOVERNANCE", "COMPLIANCE"], var.snapshots.object_lock.mode) && var.snapshots.object_lock.days >= 1, false)
    error_message = "snapshots.object_lock is of the bucket that is made, so it goes without place; mode is GOVERNANCE or COMPLIANCE, days 1 or more."
  }
  validation {
    condition     = try(var.snapshots.noncurrent_days, 1) >= 1
    error_message = "snapshots.noncurrent_days is 1 or more."
  }
}

variable "environment" {
  description = "More variables of etcd-muster or etcd, as { MUSTER_REMOVE_INTERVAL = \"5m\" }. They win over those that are set here. They land in the machines' user data and in Terraform's state, where whoever may read those reads them: no secrets."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
  nullable    = false
}

# The network.

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnets" {
  description = "The private subnets, availability zone to its subnet; members are spread over them in the order of the zones' names."
  type = map(object({
    id   = string
    cidr = string
  }))
  validation {
    condition     = length(var.subnets) > 0
    error_message = "subnets needs at least one subnet: { eu-west-1a = { id = \"subnet-…\", cidr = \"10.20.0.0/24\" } }; three zones for three members."
  }
  validation {
    condition     = var.size < 3 || length(var.subnets) >= 3 || length(var.subnets) == 0 || var.few_zones
    error_message = "${var.size} members in ${length(var.subnets)} zones (${join(", ", keys(var.subnets))}): the loss of one zone may cost the quorum; give three subnets in three zones, or few_zones = true to bear it."
  }
}

variable "few_zones" {
  description = "Whether three members or more may be in fewer than three zones, so that the loss of one zone may cost the quorum."
  type        = bool
  default     = false
}

variable "client_security_groups" {
  description = "Security groups whose members may use the client port (2379), a name of yours to the group's id; beside the one that is made here (client_security_group_id)."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "client_cidrs" {
  description = "Blocks from which the client port may be used."
  type        = set(string)
  default     = []
  nullable    = false
  validation {
    condition     = alltrue([for block in var.client_cidrs : can(cidrhost(block, 0)) && !endswith(block, "/0")])
    error_message = "client_cidrs are blocks as 10.0.0.0/16; /0 would be everybody."
  }
}

variable "ssh" {
  description = "SSH, off unless given: an EC2 key pair's name, and the blocks from which port 22 may be reached."
  type = object({
    key_name = string
    cidrs    = set(string)
  })
  default = null
  validation {
    condition     = var.ssh == null || alltrue([for block in try(var.ssh.cidrs, []) : can(cidrhost(block, 0)) && !endswith(block, "/0")])
    error_message = "ssh.cidrs are blocks as 192.0.2.0/24; /0 would be everybody. Without SSH, session_manager gives a shell."
  }
}

variable "session_manager" {
  description = "Whether Systems Manager's Session Manager may open a shell on the machines; fcos has no agent for it."
  type        = bool
  default     = false
}

variable "load_balancer" {
  description = "Whether there is an internal network load balancer on the client port. Its health check is /readyz: a member in good health, and a quorum."
  type        = bool
  default     = true
}

# The machines.

variable "os" {
  description = "ubuntu (24.04 LTS), flatcar or fcos (Fedora CoreOS)."
  type        = string
  default     = "ubuntu"
  validation {
    condition     = contains(["ubuntu", "flatcar", "fcos"], var.os)
    error_message = "os is ubuntu, flatcar or fcos; it is \"${var.os}\"."
  }
}

variable "ami_id" {
  description = "An image of that operating system; null: its publisher's latest. Fixed instances keep theirs; in a group a newer one means a refresh at the next apply: pin it here to say when."
  type        = string
  default     = null
  validation {
    condition     = var.ami_id == null || can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id is an image's id, as ami-0123456789abcdef0."
  }
}

variable "architecture" {
  description = "x86_64 or arm64; the instance type and the binaries must be of it."
  type        = string
  default     = "x86_64"
  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture is x86_64 or arm64; it is \"${var.architecture}\"."
  }
}

variable "instance_type" {
  description = "The instance type: one on Nitro, since the data volume is found by its NVMe name."
  type        = string
  default     = "t3.medium"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9-]+$", var.instance_type)) && !can(regex("^(t1|t2|m1|m2|m3|m4|c1|c3|c4|r3|r4|i2|d2)\\.", var.instance_type))
    error_message = "instance_type is one on Nitro, as t3.medium or m7i.large; \"${var.instance_type}\" isn't, and the data volume would not be found there."
  }
}

variable "runtime" {
  description = "binary: etcd and etcd-muster as plain programs under systemd. container: the image, by docker (fcos: podman)."
  type        = string
  default     = "binary"
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
}

variable "container_network" {
  description = "host, or bridge: the container's ports are published, and the metadata service answers over two hops."
  type        = string
  default     = "host"
  nullable    = false
}

variable "data_volume" {
  description = "The data volume (gp3, encrypted): size in GiB, IOPS, MiB/s, a KMS key (null: the account's own for EBS; in a group the key's policy must let AWSServiceRoleForAutoScaling use it). at_destroy: keep, snapshot (the default in shape fixed) or delete (the default in a group, which can't snapshot; keep leaves a volume behind for every instance that ever was)."
  type = object({
    size        = optional(number, 20)
    iops        = optional(number, 3000)
    throughput  = optional(number, 125)
    kms_key_arn = optional(string)
    at_destroy  = optional(string)
  })
  default  = {}
  nullable = false
  validation {
    condition     = contains(["keep", "snapshot", "delete"], coalesce(var.data_volume.at_destroy, "delete"))
    error_message = "data_volume.at_destroy is keep, snapshot or delete; it is \"${coalesce(var.data_volume.at_destroy, "-")}\"."
  }
  validation {
    condition     = var.shape == "fixed" || var.data_volume.at_destroy != "snapshot"
    error_message = "A group's volumes are made and ended by EC2, which takes no snapshot: set data_volume.at_destroy to \"delete\" (a new member gets its data from the others) or \"keep\"."
  }
  validation {
    condition     = var.data_volume.size >= 4 && var.data_volume.iops >= 3000 && var.data_volume.throughput >= 125
    error_message = "data_volume needs a size of 4 GiB or more, 3000 iops or more and a throughput of 125 MiB/s or more: gp3 has these in its price."
  }
}

variable "existing_volumes" {
  description = "Data volumes that are there already, node name to volume: those that an earlier cluster of the same addresses kept, or copies of their snapshots. They are attached, and never destroyed. Their members find each other where they were, so it goes with addresses."
  type        = map(string)
  default     = {}
  nullable    = false
  validation {
    condition     = alltrue([for name in keys(var.existing_volumes) : contains(keys(var.addresses), name)])
    error_message = "existing_volumes is by the names in addresses (${join(", ", keys(var.addresses))}), which are to be the addresses that the volumes' members had."
  }
  validation {
    condition     = alltrue([for volume in values(var.existing_volumes) : can(regex("^vol-[0-9a-f]{8,17}$", volume))])
    error_message = "existing_volumes maps node names to volumes, as { a = \"vol-0123456789abcdef0\" }."
  }
}

variable "permissions_boundary" {
  description = "ARN of a policy that bounds the machines' role, where the account demands one."
  type        = string
  default     = null
}

# TLS.

variable "tls" {
  description = <<-EOT
    How both ports speak:
    none, plain HTTP;
    automatic, etcd's own certificates, which encrypt and prove nothing;
    files, certificates of yours, fetched from `files` (s3://bucket/prefix; in shape fixed prefix/NODE/client.crt and so on, in a group prefix/client.crt), or put into inline_secrets;
    minted, certificates that each machine makes by your CA: `ca_cert` is its PEM, `ca_key` the name of the SecureString in Parameter Store that holds its key (or inline_secrets has ca.key), `kms_key_arn` the key by which that is encrypted, if it isn't the account's own.
    extra_sans are more names and addresses for minted certificates; the load balancer's name is always in them.
  EOT
  type = object({
    mode        = string
    files       = optional(string)
    ca_cert     = optional(string)
    ca_key      = optional(string)
    kms_key_arn = optional(string)
    extra_sans  = optional(list(string), [])
  })
  default  = { mode = "none" }
  nullable = false
  validation {
    condition     = contains(["none", "automatic", "files", "minted"], var.tls.mode)
    error_message = "tls.mode is none, automatic, files or minted; it is \"${var.tls.mode}\"."
  }
  validation {
    condition     = var.tls.files == null || can(regex("^s3://[a-z0-9][a-z0-9.-]+/[A-Za-z0-9._/-]*[A-Za-z0-9._-]$", var.tls.files))
    error_message = "tls.files is s3://bucket/prefix, without a slash at the end."
  }
  validation {
    condition     = var.tls.mode != "files" || (var.tls.files != null) != (length(nonsensitive(keys(var.inline_secrets))) > 0)
    error_message = "tls.mode = \"files\" needs either tls.files (s3://bucket/prefix) or inline_secrets, and not both."
  }
  validation {
    condition     = var.tls.mode != "minted" || startswith(trimspace(coalesce(var.tls.ca_cert, "-")), "-----BEGIN CERTIFICATE-----")
    error_message = "tls.mode = \"minted\" needs tls.ca_cert, the CA's certificate as PEM. (terraform/init takes private/ca.crt and private/ca.key, which scripts/run.sh makes.)"
  }
  validation {
    condition     = var.tls.mode != "minted" || (var.tls.ca_key != null) != (length(nonsensitive(keys(var.inline_secrets))) > 0)
    error_message = "tls.mode = \"minted\" needs the CA's key: either tls.ca_key, the name of a SecureString parameter, or inline_secrets = { all = { \"ca.key\" = … } }, and not both."
  }
  validation {
    condition     = var.tls.ca_key == null || can(regex("^/[A-Za-z0-9_./-]+$", var.tls.ca_key))
    error_message = "tls.ca_key is a parameter's name with a slash in front, as /etcd/ca-key."
  }
  validation {
    condition     = var.tls.mode != "automatic" || var.container_network != "bridge" || var.runtime != "container"
    error_message = "tls.mode = \"automatic\" in a bridged container would make certificates for 0.0.0.0, which no address matches: set container_network = \"host\", or another mode."
  }
}

variable "inline_secrets" {
  description = "Private keys put into the user data, as { all = { \"ca.key\" = PEM } }, or by node: { a = { \"client.key\" = PEM, … } }. Whoever may read the user data has them, and Terraform's state holds them: a warning says so at each plan."
  type        = map(map(string))
  default     = {}
  nullable    = false
  sensitive   = true
  validation {
    condition     = alltrue([for node in nonsensitive(keys(var.inline_secrets)) : node == "all" || (var.shape == "fixed" && contains(length(var.addresses) > 0 ? keys(var.addresses) : [for i in range(var.size) : tostring(i)], node))])
    error_message = "inline_secrets is by node: \"all\", or in shape fixed a node's name (a key of addresses, or \"0\", \"1\", …)."
  }
}
