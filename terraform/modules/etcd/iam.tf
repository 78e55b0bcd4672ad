# What a machine may do: each right only where a setting needs it, on nothing wider than that setting names.

locals {
  objects = compact(concat(
    var.runtime == "binary" ? [for b in var.binaries : b.source] : [],
    [var.runtime == "container" ? try(var.image.archive.source, null) : null],
    [var.tls.mode == "files" && var.tls.files != null ? "${var.tls.files}/*" : null],
  ))
  claims        = var.claim == null ? [] : [trimprefix(local.claim, "s3://")] # of one, or empty
  ca_parameter  = "arn:${local.partition}:ssm:${local.account}:parameter${coalesce(var.tls.ca_key, "/")}"
  reads_the_key = var.tls.mode == "minted" && var.tls.ca_key != null

  # Registry of ECR: account, region, repository.
  ecr = var.runtime == "container" && try(var.image.archive, null) == null ? try(
    regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)", var.image.name), null
  ) : null

  statements = concat(
    [{
      Sid      = "FindEachOther"
      Effect   = "Allow"
      Action   = ["ec2:DescribeInstances", "ec2:DescribeInstanceStatus"]
      Resource = ["*"] # EC2 knows no narrower one for these
    }],
    [for objects in [[for o in local.objects : "arn:${local.partition}:s3:::${trimprefix(o, "s3://")}" if startswith(o, "s3://")]] : {
      Sid      = "Fetch"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = objects
    } if length(objects) > 0],
    [for registries in local.ecr == null ? [] : ["*"] : {
      Sid      = "RegistryLogin"
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = [registries] # this knows no narrower one
    }],
    [for ecr in local.ecr == null ? [] : [local.ecr] : {
      Sid      = "Pull"
      Effect   = "Allow"
      Action   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = ["arn:${local.partition}:ecr:${ecr[1]}:${ecr[0]}:repository/${ecr[2]}"]
    }],
    # And beside it what a store is tried with that `environment` names in S3's place, or an endpoint of the VPC.
    [for claim in local.claims : {
      Sid      = "Claim"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject"]
      Resource = ["arn:${local.partition}:s3:::${claim}/claim*.json"]
    }],
    # Without it S3 doesn't tell "absent" from "forbidden".
    [for claim in local.claims : {
      Sid      = "ClaimAbsent"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = ["arn:${local.partition}:s3:::${split("/", claim)[0]}"]
    }],
    # The same rights stand in docs/snapshots.md, and a test compares them.
    [for place in local.snapshot_places : {
      Sid    = "Snapshots"
      Effect = "Allow"
      Action = concat(
        ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
        var.snapshots.delete ? ["s3:DeleteObject"] : [],
      )
      Resource = ["arn:${local.partition}:s3:::${place}/*"]
    }],
    # S3 asks for it, too, before it says that an object is absent; the object's key is then the prefix (as ceph/ceph#68577 found AWS to do).
    [for place in local.snapshot_places : {
      Sid       = "SnapshotsList"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = ["arn:${local.partition}:s3:::${split("/", place)[0]}"]
      Condition = { StringLike = { "s3:prefix" = ["${join("/", slice(split("/", place), 1, length(split("/", place))))}/*"] } }
    }],
    # With a bucket key S3 encrypts under the bucket's name, without one under the object's.
    [for key in local.snapshot_kms_keys : {
      Sid      = "SnapshotsEncrypt"
      Effect   = "Allow"
      Action   = ["kms:GenerateDataKey", "kms:Decrypt"]
      Resource = [key]
      Condition = { StringLike = { "kms:EncryptionContext:aws:s3:arn" = [
        for place in local.snapshot_places : ["arn:${local.partition}:s3:::${split("/", place)[0]}", "arn:${local.partition}:s3:::${place}/*"]
      ][0] } }
    }],
    [for parameter in local.snapshot_parameters : {
      Sid      = "SnapshotsKey"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter"]
      Resource = [parameter]
    }],
    [for key in compact([try(var.snapshots.key_kms_key_arn, null)]) : {
      Sid       = "SnapshotsKeyDecrypt"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = [key]
      Condition = { StringEquals = { "kms:EncryptionContext:PARAMETER_ARN" = local.snapshot_parameters[0] } }
    }],
    [for parameter in local.reads_the_key ? [local.ca_parameter] : [] : {
      Sid      = "CaKey"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter"]
      Resource = [parameter]
    }],
    # The account's own key (alias/aws/ssm) lets in whoever may read the parameter.
    [for key in local.reads_the_key && var.tls.kms_key_arn != null ? [var.tls.kms_key_arn] : [] : {
      Sid       = "CaKeyDecrypt"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = [key]
      Condition = { StringEquals = { "kms:EncryptionContext:PARAMETER_ARN" = local.ca_parameter } }
    }],
    [for group in local.is_fixed ? [] : [var.name] : {
      Sid      = "LifecycleHooks"
      Effect   = "Allow"
      Action   = ["autoscaling:CompleteLifecycleAction"]
      Resource = ["arn:${local.partition}:autoscaling:${local.account}:autoScalingGroup:*:autoScalingGroupName/${group}"]
    }],
    # Session Manager's least: AmazonSSMManagedInstanceCore would let every parameter of the account be read.
    [for instances in var.session_manager ? ["arn:${local.partition}:ec2:${local.account}:instance/*"] : [] : {
      Sid      = "SessionManagerAgent"
      Effect   = "Allow"
      Action   = ["ssm:UpdateInstanceInformation"]
      Resource = [instances]
    }],
    [for channels in var.session_manager ? ["*"] : [] : {
      Sid      = "SessionManagerChannels"
      Effect   = "Allow"
      Action   = ["ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"]
      Resource = [channels] # these know no narrower one
    }],
  )
}

resource "aws_iam_role" "member" {
  name_prefix          = "${var.name}-member-"
  description          = "Members of the etcd cluster ${var.name}"
  permissions_boundary = var.permissions_boundary
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
  tags = local.tags
}

resource "aws_iam_role_policy" "member" {
  name   = "member"
  role   = aws_iam_role.member.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.statements })

  # The claim and the first snapshot may come as soon as there are rights: before that the buckets are as they are to be.
  depends_on = [
    aws_s3_bucket_public_access_block.claim,
    aws_s3_bucket_policy.claim,
    aws_s3_bucket_public_access_block.snapshots,
    aws_s3_bucket_policy.snapshots,
    aws_s3_bucket_server_side_encryption_configuration.snapshots,
    aws_s3_bucket_object_lock_configuration.snapshots,
    aws_s3_bucket_lifecycle_configuration.snapshots,
  ]
}

resource "aws_iam_instance_profile" "member" {
  name_prefix = "${var.name}-member-"
  role        = aws_iam_role.member.name
  tags        = local.tags
}
