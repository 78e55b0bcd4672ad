# The module's plan and its refusals, with a provider that makes nothing and asks nobody.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-west-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_ami" {
    defaults = { id = "ami-0123456789abcdef0" }
  }
}

variables {
  vpc_id = "vpc-0123456789abcdef0"
  subnets = {
    eu-west-1a = { id = "subnet-a", cidr = "10.20.0.0/24" }
    eu-west-1b = { id = "subnet-b", cidr = "10.20.1.0/24" }
    eu-west-1c = { id = "subnet-c", cidr = "10.20.2.0/24" }
  }
  binaries = [{ source = "s3://etcd-bucket/etcd.tar.gz", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }]
}

run "the_least_rights" {
  command = plan
  variables {
    claim = null
  }
  assert {
    condition = jsondecode(aws_iam_role_policy.member.policy).Statement == [
      { Sid = "FindEachOther", Effect = "Allow", Action = ["ec2:DescribeInstances", "ec2:DescribeInstanceStatus"], Resource = ["*"] },
      { Sid = "Fetch", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:aws:s3:::etcd-bucket/etcd.tar.gz"] },
    ]
    error_message = "a cluster without extras may list instances and fetch its one archive, and nothing else"
  }
  assert {
    condition     = length(aws_s3_bucket.snapshots) == 0 && output.snapshots_place == null && alltrue([for host in module.host : length([for name in keys(host.environment) : name if startswith(name, "MUSTER_SNAPSHOT")]) == 0])
    error_message = "no snapshots, no bucket, nothing of them on the machines"
  }
}

run "a_claim_of_its_own_by_default" {
  command = plan
  override_resource {
    target          = aws_s3_bucket.claim
    override_during = plan
    values          = { id = "etcd-claim-1", bucket = "etcd-claim-1", arn = "arn:aws:s3:::etcd-claim-1" }
  }
  assert {
    condition = slice(jsondecode(aws_iam_role_policy.member.policy).Statement, 2, 4) == [
      { Sid = "Claim", Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject"], Resource = ["arn:aws:s3:::etcd-claim-1/etcd/claim*.json"] },
      { Sid = "ClaimAbsent", Effect = "Allow", Action = ["s3:ListBucket"], Resource = ["arn:aws:s3:::etcd-claim-1"] },
    ] && length(jsondecode(aws_iam_role_policy.member.policy).Statement) == 4
    error_message = "the rights on the claim's object, and no others"
  }
  assert {
    condition     = alltrue([for host in module.host : host.environment["MUSTER_CLAIM"] == "s3://etcd-claim-1/etcd"]) && output.claim == "s3://etcd-claim-1/etcd"
    error_message = "the machines are told the place"
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.claim[0].policy).Statement[0].Condition == { Bool = { "aws:SecureTransport" = "false" } } && aws_s3_bucket_public_access_block.claim[0].restrict_public_buckets
    error_message = "nobody else's, and by https only"
  }
}

run "closed_by_default" {
  command = plan
  assert {
    condition     = alltrue([for node in aws_instance.node : node.associate_public_ip_address == false && node.metadata_options[0].http_tokens == "required" && node.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "no public address, IMDSv2 only, one hop"
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.member : rule.cidr_ipv4 == null])
    error_message = "nobody gets in by address"
  }
  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.member : rule.from_port]) == toset([2379, 2380, 2381])
    error_message = "no other port than etcd's two and the health check's"
  }
  assert {
    condition     = keys({ for name, rule in aws_vpc_security_group_ingress_rule.member : name => rule if rule.from_port == 2380 }) == ["peers"] && keys({ for name, rule in aws_vpc_security_group_ingress_rule.member : name => rule if rule.from_port == 2381 }) == ["health"]
    error_message = "2380 is for members, 2381 for the balancer, and for nobody else"
  }
  assert {
    condition     = length(terraform_data.kept) == 0 && alltrue([for volume in aws_ebs_volume.data : volume.encrypted && volume.type == "gp3" && volume.final_snapshot]) && length(aws_ebs_volume.data) == 3
    error_message = "three encrypted gp3 volumes, snapshotted at destroy"
  }
  assert {
    condition     = [for name in ["0", "1", "2"] : aws_instance.node[name].subnet_id] == ["subnet-a", "subnet-b", "subnet-c"]
    error_message = "a member in each zone"
  }
  assert {
    condition     = alltrue([for node in aws_instance.node : node.tags["etcd"] == "1"])
    error_message = "the tag is the program's default"
  }
  assert {
    condition     = aws_lb_target_group.client[0].health_check[0].path == "/readyz" && aws_lb.this[0].internal
    error_message = "the balancer is internal and asks /readyz"
  }
}

run "fixed_addresses" {
  command = plan
  variables {
    claim       = null
    addresses   = { a = "10.20.2.10", b = "10.20.0.11", c = "10.20.1.12" }
    tls         = { mode = "files", files = "s3://etcd-bucket/tls" }
    data_volume = { at_destroy = "keep" }
  }
  assert {
    condition     = { for name, node in aws_instance.node : name => "${node.private_ip} ${node.subnet_id}" } == { a = "10.20.2.10 subnet-c", b = "10.20.0.11 subnet-a", c = "10.20.1.12 subnet-b" }
    error_message = "each address in the subnet that holds it"
  }
  assert {
    condition     = toset(keys(aws_ebs_volume.data)) == toset(["a", "b", "c"]) && toset(keys(terraform_data.kept)) == toset(["a", "b", "c"])
    error_message = "kept volumes are where all are, and guarded"
  }
  assert {
    condition     = contains(jsondecode(aws_iam_role_policy.member.policy).Statement[1].Resource, "arn:aws:s3:::etcd-bucket/tls/*")
    error_message = "certificates may be fetched"
  }
}

run "volumes_that_were_kept" {
  command = plan
  variables {
    addresses        = { a = "10.20.2.10", b = "10.20.0.11", c = "10.20.1.12" }
    existing_volumes = { a = "vol-0123456789abcdef0" }
  }
  override_data {
    target = data.aws_ebs_volume.existing
    values = { availability_zone = "eu-west-1c", volume_id = "vol-0123456789abcdef0" }
  }
  assert {
    condition     = aws_volume_attachment.data["a"].volume_id == "vol-0123456789abcdef0" && toset(keys(aws_ebs_volume.data)) == toset(["b", "c"])
    error_message = "a's volume is the old one, the others get new ones"
  }
}

run "a_kept_volume_in_another_zone" {
  command = plan
  variables {
    addresses        = { a = "10.20.2.10", b = "10.20.0.11", c = "10.20.1.12" }
    existing_volumes = { b = "vol-0123456789abcdef0" }
  }
  override_data {
    target = data.aws_ebs_volume.existing
    values = { availability_zone = "eu-west-1c", volume_id = "vol-0123456789abcdef0" }
  }
  expect_failures = [data.aws_ebs_volume.existing]
}

run "a_group_with_everything" {
  command = plan
  variables {
    shape             = "group"
    claim             = "s3://claims/prod"
    session_manager   = true
    runtime           = "container"
    container_network = "bridge"
    image             = { name = "210987654321.dkr.ecr.eu-central-1.amazonaws.com/db/etcd-muster:1.0" }
    tls               = { mode = "minted", ca_cert = "-----BEGIN CERTIFICATE-----\n", ca_key = "/etcd/ca-key", kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/k" }
  }
  assert {
    condition = [for s in jsondecode(aws_iam_role_policy.member.policy).Statement : "${s.Sid} ${join(",", s.Action)} ${join(",", s.Resource)}"] == [
      "FindEachOther ec2:DescribeInstances,ec2:DescribeInstanceStatus *",
      "RegistryLogin ecr:GetAuthorizationToken *",
      "Pull ecr:BatchGetImage,ecr:GetDownloadUrlForLayer arn:aws:ecr:eu-central-1:210987654321:repository/db/etcd-muster",
      "Claim s3:GetObject,s3:PutObject arn:aws:s3:::claims/prod/claim*.json",
      "ClaimAbsent s3:ListBucket arn:aws:s3:::claims",
      "CaKey ssm:GetParameter arn:aws:ssm:eu-west-1:123456789012:parameter/etcd/ca-key",
      "CaKeyDecrypt kms:Decrypt arn:aws:kms:eu-west-1:123456789012:key/k",
      "LifecycleHooks autoscaling:CompleteLifecycleAction arn:aws:autoscaling:eu-west-1:123456789012:autoScalingGroup:*:autoScalingGroupName/etcd",
      "SessionManagerAgent ssm:UpdateInstanceInformation arn:aws:ec2:eu-west-1:123456789012:instance/*",
      "SessionManagerChannels ssmmessages:CreateControlChannel,ssmmessages:CreateDataChannel,ssmmessages:OpenControlChannel,ssmmessages:OpenDataChannel *",
    ]
    error_message = "each setting brings its right, on what it names"
  }
  assert {
    condition     = aws_launch_template.this[0].metadata_options[0].http_put_response_hop_limit == 2 && aws_launch_template.this[0].metadata_options[0].http_tokens == "required"
    error_message = "a bridged container is two hops from the metadata service"
  }
  assert {
    condition     = aws_autoscaling_group.this[0].health_check_type == "EC2" && contains(aws_autoscaling_group.this[0].suspended_processes, "AZRebalance")
    error_message = "the group ends nobody for want of a quorum, and launches nobody beside a full cluster"
  }
  assert {
    condition     = aws_autoscaling_group.this[0].instance_refresh[0].preferences[0].min_healthy_percentage == 66 && aws_autoscaling_group.this[0].instance_refresh[0].preferences[0].max_healthy_percentage == 100
    error_message = "a refresh takes one member at a time, and ends it before it launches another"
  }
  assert {
    condition     = { for hook in aws_autoscaling_group.this[0].initial_lifecycle_hook : hook.name => hook.default_result } == { etcd-launch = "ABANDON", etcd-terminate = "CONTINUE" }
    error_message = "who doesn't vote in time is replaced; who can't leave ends all the same"
  }
  assert {
    condition     = anytrue([for t in aws_autoscaling_group.this[0].tag : t.key == "etcd" && t.value == "1" && t.propagate_at_launch])
    error_message = "the group's instances carry the tag"
  }
}

run "snapshots_in_a_bucket_of_their_own" {
  command = plan
  variables {
    claim     = null
    snapshots = {}
  }
  override_resource {
    target          = aws_s3_bucket.snapshots
    override_during = plan
    values          = { id = "etcd-snapshots-1", bucket = "etcd-snapshots-1", arn = "arn:aws:s3:::etcd-snapshots-1" }
  }
  assert {
    condition = slice(jsondecode(aws_iam_role_policy.member.policy).Statement, 2, 4) == [
      { Sid = "Snapshots", Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"], Resource = ["arn:aws:s3:::etcd-snapshots-1/etcd/*"] },
      { Sid = "SnapshotsList", Effect = "Allow", Action = ["s3:ListBucket"], Resource = ["arn:aws:s3:::etcd-snapshots-1"], Condition = { StringLike = { "s3:prefix" = ["etcd/*"] } } },
    ] && length(jsondecode(aws_iam_role_policy.member.policy).Statement) == 4
    error_message = "the rights on snapshots, below the prefix, and no others"
  }
  assert {
    condition     = alltrue([for host in module.host : { for name, value in host.environment : name => value if startswith(name, "MUSTER_SNAPSHOT") } == { MUSTER_SNAPSHOTS = "s3://etcd-snapshots-1/etcd" }])
    error_message = "the machines are told the place, and for the rest the program has its defaults"
  }
  assert {
    condition     = aws_s3_bucket.snapshots[0].force_destroy == false && aws_s3_bucket.snapshots[0].bucket_prefix == "etcd-snapshots-"
    error_message = "a bucket that isn't emptied for its removal"
  }
  assert {
    condition     = aws_s3_bucket_versioning.snapshots[0].versioning_configuration[0].status == "Enabled"
    error_message = "what is overwritten or deleted by mistake can be had back"
  }
  assert {
    condition     = [for rule in aws_s3_bucket_server_side_encryption_configuration.snapshots[0].rule : "${rule.apply_server_side_encryption_by_default[0].sse_algorithm} ${rule.bucket_key_enabled}"] == ["AES256 false"]
    error_message = "S3's own encryption"
  }
  assert {
    condition     = length(aws_s3_bucket_object_lock_configuration.snapshots) == 0
    error_message = "no Object Lock unless asked for"
  }
  assert {
    condition = [for rule in aws_s3_bucket_lifecycle_configuration.snapshots[0].rule : [
      rule.id, rule.status, rule.filter[0].prefix, join(",", rule.abort_incomplete_multipart_upload[*].days_after_initiation), join(",", rule.noncurrent_version_expiration[*].noncurrent_days),
      join(",", rule.expiration[*].expired_object_delete_marker),
      ]] == [
      ["unfinished-uploads", "Enabled", "etcd/", "1", "", ""],
      ["deleted-snapshots", "Enabled", "etcd/", "", "30", "true"],
    ]
    error_message = "below the prefix: uploads end after a day, deleted versions after thirty, and nothing that is there"
  }
  assert {
    condition = jsondecode(aws_s3_bucket_policy.snapshots[0].policy).Statement == [{
      Sid       = "TlsOnly", Effect = "Deny", Principal = "*", Action = "s3:*", Resource = ["arn:aws:s3:::etcd-snapshots-1", "arn:aws:s3:::etcd-snapshots-1/*"],
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
    error_message = "plain http is refused"
  }
}

run "snapshots_with_everything" {
  command = plan
  variables {
    claim = null
    name  = "blue"
    snapshots = {
      every           = "30m"
      keep            = "48h,14d"
      verify          = "restore"
      kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:key/s3"
      key             = "ssm:/etcd/snapshot-key"
      key_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/ssm"
      delete          = false
      noncurrent_days = 7
      object_lock     = { days = 14 }
    }
  }
  override_resource {
    target          = aws_s3_bucket.snapshots
    override_during = plan
    values          = { id = "blue-snapshots-1", bucket = "blue-snapshots-1", arn = "arn:aws:s3:::blue-snapshots-1" }
  }
  assert {
    condition = slice(jsondecode(aws_iam_role_policy.member.policy).Statement, 2, 7) == [
      { Sid = "Snapshots", Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], Resource = ["arn:aws:s3:::blue-snapshots-1/blue/*"] },
      { Sid = "SnapshotsList", Effect = "Allow", Action = ["s3:ListBucket"], Resource = ["arn:aws:s3:::blue-snapshots-1"], Condition = { StringLike = { "s3:prefix" = ["blue/*"] } } },
      { Sid = "SnapshotsEncrypt", Effect = "Allow", Action = ["kms:GenerateDataKey", "kms:Decrypt"], Resource = ["arn:aws:kms:eu-west-1:123456789012:key/s3"], Condition = { StringLike = { "kms:EncryptionContext:aws:s3:arn" = ["arn:aws:s3:::blue-snapshots-1", "arn:aws:s3:::blue-snapshots-1/blue/*"] } } },
      { Sid = "SnapshotsKey", Effect = "Allow", Action = ["ssm:GetParameter"], Resource = ["arn:aws:ssm:eu-west-1:123456789012:parameter/etcd/snapshot-key"] },
      { Sid = "SnapshotsKeyDecrypt", Effect = "Allow", Action = ["kms:Decrypt"], Resource = ["arn:aws:kms:eu-west-1:123456789012:key/ssm"], Condition = { StringEquals = { "kms:EncryptionContext:PARAMETER_ARN" = "arn:aws:ssm:eu-west-1:123456789012:parameter/etcd/snapshot-key" } } },
    ] && length(jsondecode(aws_iam_role_policy.member.policy).Statement) == 7
    error_message = "each setting brings its right, and without delete there is none to delete"
  }
  assert {
    condition = alltrue([for host in module.host : { for name, value in host.environment : name => value if startswith(name, "MUSTER_SNAPSHOT") } == {
      MUSTER_SNAPSHOTS       = "s3://blue-snapshots-1/blue"
      MUSTER_SNAPSHOT_EVERY  = "30m"
      MUSTER_SNAPSHOT_KEEP   = "48h,14d"
      MUSTER_SNAPSHOT_VERIFY = "restore"
      MUSTER_SNAPSHOT_KEY    = "ssm:/etcd/snapshot-key"
    }])
    error_message = "the machines are told what was given"
  }
  assert {
    condition     = [for rule in aws_s3_bucket_server_side_encryption_configuration.snapshots[0].rule : "${rule.apply_server_side_encryption_by_default[0].sse_algorithm} ${rule.apply_server_side_encryption_by_default[0].kms_master_key_id} ${rule.bucket_key_enabled}"] == ["aws:kms arn:aws:kms:eu-west-1:123456789012:key/s3 true"]
    error_message = "by the key that was given"
  }
  assert {
    condition     = [for lock in aws_s3_bucket_object_lock_configuration.snapshots[0].rule[*].default_retention[0] : "${lock.mode} ${lock.days}"] == ["GOVERNANCE 14"]
    error_message = "locked for as long as was asked for"
  }
  assert {
    condition     = flatten(aws_s3_bucket_lifecycle_configuration.snapshots[0].rule[*].noncurrent_version_expiration[*].noncurrent_days) == [7]
    error_message = "deleted versions go when that was asked for"
  }
}

run "snapshots_in_a_bucket_that_is_there" {
  command = plan
  variables {
    claim     = null
    snapshots = { place = "s3://backups/etcd/blue", sse = "aws:kms:arn:aws:kms:eu-west-1:123456789012:key/k", key = "/etc/etcd-muster/ssl/snapshot.key" }
  }
  assert {
    condition     = length(aws_s3_bucket.snapshots) + length(aws_s3_bucket_policy.snapshots) + length(aws_s3_bucket_lifecycle_configuration.snapshots) + length(aws_s3_bucket_versioning.snapshots) + length(aws_s3_bucket_public_access_block.snapshots) == 0
    error_message = "nothing of it is changed"
  }
  assert {
    condition = [for s in slice(jsondecode(aws_iam_role_policy.member.policy).Statement, 2, 5) : "${s.Sid} ${join(",", s.Action)} ${join(",", s.Resource)} ${jsonencode(try(s.Condition, null))}"] == [
      "Snapshots s3:GetObject,s3:PutObject,s3:AbortMultipartUpload,s3:DeleteObject arn:aws:s3:::backups/etcd/blue/* null",
      "SnapshotsList s3:ListBucket arn:aws:s3:::backups ${jsonencode({ StringLike = { "s3:prefix" = ["etcd/blue/*"] } })}",
      "SnapshotsEncrypt kms:GenerateDataKey,kms:Decrypt arn:aws:kms:eu-west-1:123456789012:key/k ${jsonencode({ StringLike = { "kms:EncryptionContext:aws:s3:arn" = ["arn:aws:s3:::backups", "arn:aws:s3:::backups/etcd/blue/*"] } })}",
    ] && length(jsondecode(aws_iam_role_policy.member.policy).Statement) == 5
    error_message = "rights below its prefix, and by the key that sse names"
  }
}

run "ssh_to_a_block" {
  command = plan
  variables {
    ssh = { key_name = "me", cidrs = ["192.0.2.0/24"] }
  }
  assert {
    condition     = [for rule in aws_vpc_security_group_ingress_rule.member : rule.cidr_ipv4 if rule.from_port == 22] == ["192.0.2.0/24"]
    error_message = "SSH from the given block"
  }
}

# Refusals: as many at once as there are variables, since each run starts the provider. Each one named has to fail.

run "what_no_cluster_can_have" {
  command = plan
  variables {
    name          = "an-etcd-cluster-for-everything"
    filter_tags   = {}
    claim         = "s3://claims"
    client_cidrs  = ["0.0.0.0/0"]
    ssh           = { key_name = "me", cidrs = ["0.0.0.0/0"] }
    os            = "coreos"
    ami_id        = "ubuntu"
    architecture  = "i386"
    instance_type = "m4.large"
    data_volume   = { at_destroy = "archive" }
    tls           = { mode = "mutual" }
  }
  expect_failures = [
    var.name, var.filter_tags, var.claim, var.client_cidrs, var.ssh, var.os, var.ami_id, var.architecture, var.instance_type,
    var.data_volume, var.tls,
  ]
}

run "a_subnet_too_few" {
  command = plan
  variables {
    subnets = {
      eu-west-1a = { id = "subnet-a", cidr = "10.20.0.0/24" }
      eu-west-1b = { id = "subnet-b", cidr = "10.20.1.0/24" }
    }
  }
  expect_failures = [var.subnets]
}

run "no_such_shape_or_size" {
  command = plan
  variables {
    shape = "pair"
    size  = 9
  }
  expect_failures = [var.shape, var.size]
}

run "what_a_group_cannot_have" {
  command = plan
  variables {
    shape       = "group"
    addresses   = { a = "10.20.0.10", b = "10.20.1.10", c = "10.20.2.10" }
    data_volume = { at_destroy = "snapshot" }
  }
  expect_failures = [var.addresses, var.data_volume]
}

run "an_address_twice_and_a_volume_too_small" {
  command = plan
  variables {
    addresses   = { a = "10.20.0.10", b = "10.20.0.10", c = "10.20.2.10" }
    data_volume = { size = 1 }
  }
  expect_failures = [var.addresses, var.data_volume]
}

run "an_address_in_no_subnet" {
  command = plan
  variables {
    size      = 1
    addresses = { a = "10.99.0.10" }
  }
  expect_failures = [var.addresses]
}

run "minted_without_a_ca_and_a_kept_volume_for_nobody" {
  command = plan
  variables {
    tls              = { mode = "minted", ca_key = "/etcd/ca-key" }
    existing_volumes = { "0" = "vol-0123456789abcdef0" }
  }
  expect_failures = [var.tls, var.existing_volumes]
}

run "minted_without_the_cas_key" {
  command = plan
  variables {
    tls = { mode = "minted", ca_cert = "-----BEGIN CERTIFICATE-----\n" }
  }
  expect_failures = [var.tls]
}

run "a_place_that_is_none" {
  command = plan
  variables {
    snapshots = { place = "s3://backups" }
  }
  expect_failures = [var.snapshots]
}

run "two_keys_for_one_bucket" {
  command = plan
  variables {
    snapshots = { sse = "aws:kms:arn:aws:kms:eu-west-1:123456789012:key/a", kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/b" }
  }
  expect_failures = [var.snapshots]
}

run "a_lock_on_a_bucket_of_others" {
  command = plan
  variables {
    snapshots = { place = "s3://backups/etcd", object_lock = { days = 14 } }
  }
  expect_failures = [var.snapshots]
}

run "files_from_nowhere" {
  command = plan
  variables {
    tls = { mode = "files" }
  }
  expect_failures = [var.tls]
}

run "automatic_in_a_bridged_container" {
  command = plan
  variables {
    runtime           = "container"
    container_network = "bridge"
    image             = { name = "etcd-muster" }
    tls               = { mode = "automatic" }
  }
  expect_failures = [var.tls]
}

run "what_is_warned_of" {
  command = plan
  variables {
    size           = 4
    few_zones      = true
    subnets        = { eu-west-1a = { id = "subnet-a", cidr = "10.20.0.0/24" } }
    tls            = { mode = "minted", ca_cert = "-----BEGIN CERTIFICATE-----\n" }
    inline_secrets = { all = { "ca.key" = "-----BEGIN PRIVATE KEY-----\n" } }
  }
  expect_failures = [check.secrets, check.size, check.zones]
}
