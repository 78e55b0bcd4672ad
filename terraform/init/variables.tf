# What a deployment is made of. Give values in terraform.tfvars, or by -var; see ../modules/etcd/variables.tf for what
# is passed on as it is.

variable "environment" {
  description = "Which of the environments below this is."
  type        = string
  default     = "dev"
  validation {
    condition     = contains(keys(var.vpc), var.environment) || var.existing_network != null
    error_message = "environment is one of the keys of vpc (${join(", ", keys(var.vpc))}); it is \"${var.environment}\"."
  }
}

variable "region" {
  description = "The region. In another than eu-west-1 give subnet_private (and subnet_public) for its zones."
  type        = string
  default     = "eu-west-1"
  validation {
    condition     = can(regex("^[a-z]{2,4}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region is the region's code, as eu-west-1, without a zone's letter; it is \"${var.region}\"."
  }
}

variable "name" {
  description = "The cluster's name; null: etcd-ENVIRONMENT."
  type        = string
  default     = null
}

# Networks: environment to block, and environment to zone to block.

variable "vpc" {
  description = "The VPC's block by environment."
  type        = map(string)
  default = {
    dev  = "10.20.0.0/16"
    prod = "10.30.0.0/16"
  }
}

variable "subnet_private" {
  description = "The private subnets, where the members are: environment to zone to block."
  type        = map(map(string))
  default = {
    dev = {
      eu-west-1a = "10.20.0.0/24"
      eu-west-1b = "10.20.1.0/24"
      eu-west-1c = "10.20.2.0/24"
    }
    prod = {
      eu-west-1a = "10.30.0.0/24"
      eu-west-1b = "10.30.1.0/24"
      eu-west-1c = "10.30.2.0/24"
    }
  }
  validation {
    condition     = var.existing_network != null || alltrue([for zone in keys(lookup(var.subnet_private, var.environment, { none = "" })) : startswith(zone, var.region)])
    error_message = "subnet_private needs the environment \"${var.environment}\", with zones of ${var.region} (as ${var.region}a)."
  }
}

variable "subnet_public" {
  description = "Public subnets for NAT gateways, used with internet = true: environment to zone to block; one zone, or all of the private ones."
  type        = map(map(string))
  default = {
    dev = { eu-west-1a = "10.20.128.0/24" }
    prod = {
      eu-west-1a = "10.30.128.0/24"
      eu-west-1b = "10.30.129.0/24"
      eu-west-1c = "10.30.130.0/24"
    }
  }
}

variable "internet" {
  description = "Whether the members reach the internet (through NAT): needed for a registry other than ECR, for https:// sources, and for docker on ubuntu."
  type        = bool
  default     = false
  validation {
    condition     = var.internet || var.existing_network != null || var.runtime != "container" || try(var.image.archive, var.image_file) != null || var.image_file != null || strcontains(try(var.image.name, ""), ".dkr.ecr.${var.region}.amazonaws.com")
    error_message = "Without internet no registry can be reached but ECR's in ${var.region}: give image_file or image.archive, or set internet = true."
  }
  validation {
    condition     = var.internet || var.existing_network != null || var.runtime != "container" || var.os != "ubuntu" || var.ami_id != null
    error_message = "Ubuntu's image has no docker, and without internet it can't be installed: take os = \"flatcar\" or \"fcos\", runtime = \"binary\", an ami_id with docker in it, or internet = true."
  }
}

variable "existing_network" {
  description = "A VPC that is there already, instead of one of our own. Its private subnets must reach EC2 (and S3, SSM, Auto Scaling where used): by NAT, or by endpoints."
  type = object({
    vpc_id = string
    subnets = map(object({
      id   = string
      cidr = string
    }))
  })
  default = null
}

variable "load_balancer" {
  description = "See modules/etcd."
  type        = bool
  default     = true
}

variable "client_cidrs" {
  description = "See modules/etcd."
  type        = set(string)
  default     = []
}

variable "client_security_groups" {
  description = "See modules/etcd."
  type        = map(string)
  default     = {}
}

variable "session_manager" {
  description = "Whether Session Manager opens a shell on the members (`aws ssm start-session`). On by default here, as SSH is off."
  type        = bool
  default     = true
}

variable "ssh" {
  description = "SSH instead, for fcos: your public key's file, and the blocks from which port 22 may be reached."
  type = object({
    public_key_file = string
    cidrs           = set(string)
  })
  default = null
}

# The cluster: see modules/etcd.

variable "shape" {
  description = "fixed or group."
  type        = string
  default     = "fixed"
}

variable "instance_count" {
  description = "How many members: change this to play with your cluster."
  type        = number
  default     = 3
}

variable "addresses" {
  description = "Fixed private addresses, node to address; see modules/etcd."
  type        = map(string)
  default     = {}
}

variable "few_zones" {
  description = "Whether three members or more may be in fewer than three zones; see modules/etcd."
  type        = bool
  default     = false
}

variable "filter_tags" {
  description = "The tags by which members find each other."
  type        = map(string)
  default     = { etcd = "1" }
}

variable "claim" {
  description = "own, for a bucket of its own, or s3://bucket/prefix; null: none; see modules/etcd."
  type        = string
  default     = "own"
}

variable "snapshots" {
  description = "Snapshots in S3, `{}` for a bucket of their own; see modules/etcd."
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
}

variable "muster_environment" {
  description = "More variables of etcd-muster or etcd. They land in the machines' user data and in Terraform's state, where whoever may read those reads them: no secrets."
  type        = map(string)
  default     = {}
}

variable "os" {
  description = "ubuntu, flatcar or fcos."
  type        = string
  default     = "ubuntu"
}

variable "ami_id" {
  description = "An image of it; null: its publisher's latest."
  type        = string
  default     = null
}

variable "architecture" {
  description = "x86_64 or arm64."
  type        = string
  default     = "x86_64"
}

variable "instance_type" {
  description = "The instance type, on Nitro."
  type        = string
  default     = "t3.medium"
}

variable "data_volume" {
  description = "See modules/etcd."
  type = object({
    size        = optional(number, 20)
    iops        = optional(number, 3000)
    throughput  = optional(number, 125)
    kms_key_arn = optional(string)
    at_destroy  = optional(string)
  })
  default = {}
}

variable "existing_volumes" {
  description = "Kept data volumes, node to volume, for a cluster of the same addresses; see modules/etcd."
  type        = map(string)
  default     = {}
}

variable "runtime" {
  description = "binary or container."
  type        = string
  default     = "binary"
}

variable "container_network" {
  description = "host or bridge."
  type        = string
  default     = "host"
}

# What is run. A file here is put into a bucket of its own, from which the members fetch it: no registry, no internet.

variable "binaries_file" {
  description = "A .tar.gz with etcd, etcdctl and etcd-muster, for runtime = binary; docs/terraform.md says how to make it."
  type        = string
  default     = "private/etcd.tar.gz"
  validation {
    condition     = var.runtime != "binary" || length(var.binaries) > 0 || fileexists("${path.module}/${var.binaries_file}")
    error_message = "There is no terraform/init/${var.binaries_file}: make it as docs/terraform.md says, or give binaries."
  }
}

variable "binaries" {
  description = "The same from elsewhere, instead of binaries_file; see modules/etcd."
  type = list(object({
    source = string
    sha256 = string
  }))
  default = []
}

variable "image_file" {
  description = "An image tarball (`docker save`) of image.name, for runtime = container."
  type        = string
  default     = null
  validation {
    condition     = var.image_file == null || (fileexists("${path.module}/${coalesce(var.image_file, "-")}") && var.image != null)
    error_message = "image_file is a file below terraform/init, and goes with image = { name = … }, the name it was saved under."
  }
}

variable "image" {
  description = "The image; see modules/etcd."
  type = object({
    name = string
    archive = optional(object({
      source = string
      sha256 = string
    }))
  })
  default = null
}

# TLS.

variable "tls" {
  description = "none, automatic, files or minted; see modules/etcd. minted uses private/ca.crt and private/ca.key, which scripts/run.sh makes where they are missing."
  type        = string
  default     = "none"
  validation {
    condition     = contains(["none", "automatic", "files", "minted"], var.tls)
    error_message = "tls is none, automatic, files or minted; it is \"${var.tls}\"."
  }
}

variable "tls_files" {
  description = "s3://bucket/prefix of your own certificates, for tls = files."
  type        = string
  default     = null
}

variable "tls_extra_sans" {
  description = "More names and addresses for minted certificates."
  type        = list(string)
  default     = []
}

variable "ca_key_inline" {
  description = "Put the CA's key into the user data, as older set-ups did, instead of Parameter Store. A warning tells what that means."
  type        = bool
  default     = false
}

variable "ca_key_version" {
  description = "Raise it when private/ca.key has changed: Terraform keeps no copy of the key to compare with."
  type        = number
  default     = 1
}

variable "kms_key_arn" {
  description = "A KMS key for the CA's key in Parameter Store; null: the account's own (alias/aws/ssm)."
  type        = string
  default     = null
}
