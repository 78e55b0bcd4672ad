# What a machine may do: each right only where a setting needs it, on nothing wider than that setting names.

locals {
  objects = compact(concat(
    var.runtime == "binary" ? [for b in var.binaries : b.source] : [],
    [var.runtime == "container" ? try(var.image.archive.source, null) : null],
    [var.tls.mode == "files" && var.tls.files != null ? "${var.tls.files}/*" : null],
  ))
  claim_bucket  = var.claim == null ? "" : regex("^s3://([^/]+)", var.claim)[0]
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
    [for claim in var.claim == null ? [] : [var.claim] : {
      Sid      = "Claim"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject"]
      Resource = ["arn:${local.partition}:s3:::${trimprefix(claim, "s3://")}/claim*.json"]
    }],
    # Without it S3 doesn't tell "absent" from "forbidden".
    [for bucket in var.claim == null ? [] : [local.claim_bucket] : {
      Sid      = "ClaimAbsent"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = ["arn:${local.partition}:s3:::${bucket}"]
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
}

resource "aws_iam_instance_profile" "member" {
  name_prefix = "${var.name}-member-"
  role        = aws_iam_role.member.name
  tags        = local.tags
}
