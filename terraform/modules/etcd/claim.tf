# Where the first members are decided once and for all (MUSTER_CLAIM): without it one faulty host can make a second cluster of two.

locals {
  makes_claim = var.claim == "own"
  claim       = local.makes_claim ? "s3://${aws_s3_bucket.claim[0].id}/${var.name}" : var.claim
}

# Its object says that there was a cluster. It goes with the cluster: a next one begins with a bucket of another name.
resource "aws_s3_bucket" "claim" {
  #checkov:skip=CKV_AWS_18:One small object, which only the members write; who reads it is CloudTrail's to say
  #checkov:skip=CKV_AWS_21:The object is written under a condition, and what it said before is of no use
  #checkov:skip=CKV_AWS_144:It is of use where its cluster is, and nowhere else
  #checkov:skip=CKV_AWS_145:It holds names of instances and nothing secret; S3's own encryption is enough
  #checkov:skip=CKV2_AWS_61:Nothing in it expires: that would be a cluster forgotten
  #checkov:skip=CKV2_AWS_62:Nobody waits for news of it
  count         = local.makes_claim ? 1 : 0
  bucket_prefix = "${var.name}-claim-"
  force_destroy = true
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "claim" {
  count                   = local.makes_claim ? 1 : 0
  bucket                  = aws_s3_bucket.claim[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "claim" {
  count  = local.makes_claim ? 1 : 0
  bucket = aws_s3_bucket.claim[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.claim[0].arn, "${aws_s3_bucket.claim[0].arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.claim]
}
