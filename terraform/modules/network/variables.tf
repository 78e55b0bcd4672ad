variable "name" {
  description = "What the VPC and its parts are named by."
  type        = string
}

variable "cidr" {
  description = "The VPC's block."
  type        = string
  validation {
    condition     = can(cidrhost(var.cidr, 0))
    error_message = "cidr is an IPv4 block, as 10.20.0.0/16."
  }
}

variable "private" {
  description = "The private subnets, availability zone to block."
  type        = map(string)
  validation {
    condition     = length(var.private) > 0 && alltrue([for block in values(var.private) : can(cidrhost(block, 0))])
    error_message = "private maps availability zones to blocks, as { eu-west-1a = \"10.20.0.0/24\" }, and names one at least."
  }
}

variable "public" {
  description = "Public subnets for NAT gateways, availability zone to block. Empty: no way to the internet, and what the instances need of AWS comes through the endpoints. With one zone all go through its gateway, with a gateway per zone each stays in its own."
  type        = map(string)
  default     = {}
  nullable    = false
  validation {
    condition     = length(var.public) <= 1 || toset(keys(var.public)) == toset(keys(var.private))
    error_message = "public names one zone (one NAT gateway for all), or the same zones as private (${join(", ", keys(var.private))})."
  }
}

variable "endpoints" {
  description = "Interface endpoints, by AWS's short names: ec2, ssm, ssmmessages, autoscaling. S3's gateway, which costs nothing, is always there."
  type        = set(string)
  default     = ["ec2"]
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
  nullable    = false
}
