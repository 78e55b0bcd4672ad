# From an empty account to an etcd cluster. scripts/run.sh does the steps around it.

locals {
  name     = coalesce(var.name, "etcd-${var.environment}")
  minted   = var.tls == "minted"
  ca_cert  = "${path.module}/private/ca.crt"
  ca_key   = "${path.module}/private/ca.key"
  has_ca   = local.minted && fileexists(local.ca_cert) && fileexists(local.ca_key) # made by scripts/run.sh; without it the module refuses
  key_name = "/${local.name}/ca-key"

  # Which file goes into the bucket, if any.
  file = (
    var.runtime == "binary" ? (length(var.binaries) == 0 ? var.binaries_file : null) :
    var.image_file
  )
  uploads         = local.file == null ? {} : { (basename(local.file)) = "${path.module}/${local.file}" }
  uploaded_sha256 = one([for path in values(local.uploads) : fileexists(path) ? filesha256(path) : null])
  uploaded = one([for name, path in local.uploads : {
    source = "s3://${aws_s3_object.upload[name].bucket}/${aws_s3_object.upload[name].key}"
    sha256 = local.uploaded_sha256
  }])

  ecr_here = var.runtime == "container" && var.image_file == null && strcontains(try(var.image.name, ""), ".dkr.ecr.${var.region}.amazonaws.com")

  endpoints = toset(concat(
    ["ec2"],
    var.session_manager ? ["ssm", "ssmmessages"] : [],
    local.minted && !var.ca_key_inline ? ["ssm"] : [],
    startswith(coalesce(try(var.snapshots.key, null), "-"), "ssm:") ? ["ssm"] : [],
    var.shape == "group" ? ["autoscaling"] : [],
    local.ecr_here ? ["ecr.api", "ecr.dkr"] : [], # its layers come from S3
  ))

  network = var.existing_network != null ? var.existing_network : {
    vpc_id  = module.network[0].vpc_id
    subnets = module.network[0].subnets
  }
}

module "network" {
  source = "../modules/network"
  count  = var.existing_network == null ? 1 : 0

  name      = local.name
  cidr      = var.vpc[var.environment]
  private   = var.subnet_private[var.environment]
  public    = var.internet ? lookup(var.subnet_public, var.environment, {}) : {}
  endpoints = local.endpoints
}

module "instance_etcd" {
  source = "../modules/etcd"

  name        = local.name
  shape       = var.shape
  size        = var.instance_count
  addresses   = var.addresses
  filter_tags = var.filter_tags
  claim       = var.claim
  snapshots   = var.snapshots
  environment = var.muster_environment

  vpc_id                 = local.network.vpc_id
  subnets                = local.network.subnets
  few_zones              = var.few_zones
  load_balancer          = var.load_balancer
  client_cidrs           = var.client_cidrs
  client_security_groups = var.client_security_groups
  session_manager        = var.session_manager
  ssh                    = var.ssh == null ? null : { key_name = aws_key_pair.ssh[0].key_name, cidrs = var.ssh.cidrs }

  os                = var.os
  ami_id            = var.ami_id
  architecture      = var.architecture
  instance_type     = var.instance_type
  data_volume       = var.data_volume
  existing_volumes  = var.existing_volumes
  runtime           = var.runtime
  container_network = var.container_network
  binaries          = var.runtime != "binary" ? [] : local.file != null ? [local.uploaded] : var.binaries
  image             = var.runtime != "container" ? null : local.file != null ? { name = var.image.name, archive = local.uploaded } : var.image

  tls = {
    mode        = var.tls
    files       = var.tls_files
    ca_cert     = local.has_ca ? file(local.ca_cert) : null
    ca_key      = one(aws_ssm_parameter.ca_key[*].name)
    kms_key_arn = var.kms_key_arn
    extra_sans  = var.tls_extra_sans
  }
  inline_secrets = local.minted && var.ca_key_inline ? { all = { "ca.key" = local.has_ca ? file(local.ca_key) : "" } } : {}
}

resource "aws_key_pair" "ssh" {
  count           = var.ssh == null ? 0 : 1
  key_name_prefix = "${local.name}-"
  public_key      = file("${path.module}/${var.ssh.public_key_file}")
}

# The CA's key: write-only, so it is in neither plan nor state.
resource "aws_ssm_parameter" "ca_key" {
  #checkov:skip=CKV_AWS_337:kms_key_arn names a key of yours; without one it is the account's own, alias/aws/ssm
  #checkov:skip=CKV2_AWS_34:It is a SecureString; the check looks for a value in the configuration, and this one is write-only
  count            = local.minted && !var.ca_key_inline ? 1 : 0
  name             = local.key_name
  description      = "Key of the CA of ${local.name}"
  type             = "SecureString"
  key_id           = var.kms_key_arn
  value_wo         = local.has_ca ? file(local.ca_key) : "missing"
  value_wo_version = var.ca_key_version
}

# What the members run, where it comes from a file here.

resource "aws_s3_bucket" "upload" {
  #checkov:skip=CKV_AWS_21:Nothing is overwritten: an object's key begins with its hash
  #checkov:skip=CKV_AWS_18:Public programs, whose sha256 each member checks; who reads them is of no interest
  #checkov:skip=CKV_AWS_144:They are on the machine that runs Terraform, too
  #checkov:skip=CKV_AWS_145:Public programs; S3's own encryption is enough
  #checkov:skip=CKV2_AWS_61:One object a release, none of which expires while a member may want it
  #checkov:skip=CKV2_AWS_62:Nobody waits for news of it
  count         = length(local.uploads) > 0 ? 1 : 0
  bucket_prefix = "${local.name}-"
  force_destroy = true # copies of a local file
}

resource "aws_s3_bucket_public_access_block" "upload" {
  count                   = length(aws_s3_bucket.upload)
  bucket                  = aws_s3_bucket.upload[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_object" "upload" {
  #checkov:skip=CKV_AWS_186:Public programs; S3's own encryption is enough
  for_each    = local.uploads
  bucket      = aws_s3_bucket.upload[0].id
  key         = "${substr(local.uploaded_sha256, 0, 16)}/${each.key}"
  source      = each.value
  source_hash = local.uploaded_sha256

  depends_on = [aws_s3_bucket_public_access_block.upload]
}
