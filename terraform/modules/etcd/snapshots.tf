# Where snapshots of etcd are stored: in a bucket that is made here, or in one that is there already, which is not changed.

locals {
  makes_bucket    = var.snapshots != null && try(var.snapshots.place == null, false)
  snapshots_place = var.snapshots == null ? null : local.makes_bucket ? "s3://${aws_s3_bucket.snapshots[0].id}/${var.name}" : var.snapshots.place

  # Each a list of one, or empty.
  snapshot_places     = var.snapshots == null ? [] : [trimprefix(local.snapshots_place, "s3://")]
  snapshot_kms_keys   = distinct(compact([try(var.snapshots.kms_key_arn, null), try(regex("^aws:kms:(.+)$", var.snapshots.sse)[0], null)]))
  snapshot_parameters = compact([try("arn:${local.partition}:ssm:${local.account}:parameter${regex("^ssm:(.*)$", var.snapshots.key)[0]}", null)])
}

# A plan that would destroy it fails: its snapshots are what is left of a cluster that was lost. `terraform state rm` gives it out of
# Terraform's hands, which is what scripts/run.sh --destroy does; after that it can be given as `place`.
resource "aws_s3_bucket" "snapshots" {
  #checkov:skip=CKV_AWS_18:Who reads them is CloudTrail's to say; a log of a bucket needs another bucket, and that one has no log either
  #checkov:skip=CKV_AWS_144:A copy in another region costs twice; etcd-muster stores to several places by itself (MUSTER_SNAPSHOTS)
  #checkov:skip=CKV_AWS_145:kms_key_arn names a key of yours; without one S3's own encryption is enough
  #checkov:skip=CKV2_AWS_62:Nobody waits for news of it; etcd-muster's metrics tell the age of the newest snapshot
  count         = local.makes_bucket ? 1 : 0
  bucket_prefix = "${var.name}-snapshots-"
  force_destroy = false
  tags          = local.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "snapshots" {
  count                   = local.makes_bucket ? 1 : 0
  bucket                  = aws_s3_bucket.snapshots[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "snapshots" {
  count  = local.makes_bucket ? 1 : 0
  bucket = aws_s3_bucket.snapshots[0].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "snapshots" {
  count  = local.makes_bucket ? 1 : 0
  bucket = aws_s3_bucket.snapshots[0].id

  rule {
    bucket_key_enabled = var.snapshots.kms_key_arn != null
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.snapshots.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.snapshots.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_policy" "snapshots" {
  count  = local.makes_bucket ? 1 : 0
  bucket = aws_s3_bucket.snapshots[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.snapshots[0].arn, "${aws_s3_bucket.snapshots[0].arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.snapshots]
}

# S3 refuses it while there are no versions.
resource "aws_s3_bucket_object_lock_configuration" "snapshots" {
  count  = local.makes_bucket && try(var.snapshots.object_lock, null) != null ? 1 : 0
  bucket = aws_s3_bucket.snapshots[0].id

  rule {
    default_retention {
      mode = var.snapshots.object_lock.mode
      days = var.snapshots.object_lock.days
    }
  }

  depends_on = [aws_s3_bucket_versioning.snapshots]
}

# No rule expires an object: which snapshots go is MUSTER_SNAPSHOT_KEEP's to say. These take away what is no snapshot any more.
resource "aws_s3_bucket_lifecycle_configuration" "snapshots" {
  #checkov:skip=CKV_AWS_300:Unfinished uploads end after a day where snapshots are; what you put elsewhere in it is yours
  count  = local.makes_bucket ? 1 : 0
  bucket = aws_s3_bucket.snapshots[0].id

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {
      prefix = "${var.name}/"
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  rule {
    id     = "deleted-snapshots"
    status = "Enabled"
    filter {
      prefix = "${var.name}/"
    }
    noncurrent_version_expiration {
      noncurrent_days = var.snapshots.noncurrent_days
    }
    # The marker that a deletion leaves, once the versions below it are gone.
    expiration {
      expired_object_delete_marker = true
    }
  }

  depends_on = [aws_s3_bucket_versioning.snapshots]
}
