# The entry's plans and refusals, with a provider that makes nothing and asks nobody. It needs private/etcd.tar.gz.

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
}

variables {
  ami_id = "ami-0123456789abcdef0"
}

run "the_defaults" {
  command = plan
  assert {
    condition     = length(module.network[0].subnets) == 3 && output.size == 3
    error_message = "three members in three zones of a VPC of its own"
  }
}

run "fedora_from_a_registry" {
  command = plan
  variables {
    os       = "fcos"
    internet = true
    runtime  = "container"
    image    = { name = "registry.example.com/etcd-muster:1.0" }
  }
  assert {
    condition     = length(aws_s3_bucket.upload) == 0
    error_message = "nothing is put anywhere"
  }
}

run "ecr_without_internet" {
  command = plan
  variables {
    os      = "flatcar"
    runtime = "container"
    image   = { name = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/etcd-muster:1.0" }
  }
  assert {
    condition     = length(setsubtract(["ec2", "ecr.api", "ecr.dkr"], local.endpoints)) == 0
    error_message = "by ECR's own endpoints"
  }
}

run "snapshots_with_a_key_in_parameter_store" {
  command = plan
  variables {
    session_manager = false
    snapshots       = { place = "s3://backups/etcd", key = "ssm:/etcd/snapshot-key" }
  }
  assert {
    condition     = local.endpoints == toset(["ec2", "ssm"]) && output.snapshots_place == "s3://backups/etcd"
    error_message = "the key is read through an endpoint of its own"
  }
}

run "a_network_that_is_there" {
  command = plan
  variables {
    existing_network = { vpc_id = "vpc-0123456789abcdef0", subnets = { eu-west-1a = { id = "subnet-0123456789abcdef0", cidr = "10.9.0.0/24" } } }
    addresses        = { a = "10.9.0.10" }
    instance_count   = 1
    tls              = "files"
    tls_files        = "s3://etcd-bucket/tls"
  }
  assert {
    condition     = length(module.network) == 0
    error_message = "no VPC of its own"
  }
}

# Refusals: as many at once as there are variables, since each run starts the provider. Each one named has to fail.

run "an_environment_without_a_network_and_nothing_to_run" {
  command = plan
  variables {
    environment   = "staging"
    binaries_file = "private/none.tar.gz"
    tls           = "mutual"
  }
  expect_failures = [var.environment, var.binaries_file, var.tls]
}

run "zones_of_another_region_and_a_registry_without_internet" {
  command = plan
  variables {
    region  = "us-east-1"
    os      = "flatcar"
    runtime = "container"
    image   = { name = "registry.example.com/etcd-muster:1.0" }
  }
  expect_failures = [var.subnet_private, var.internet]
}

run "ubuntu_has_no_docker" {
  command = plan
  variables {
    ami_id     = null
    runtime    = "container"
    image      = { name = "etcd-muster:1.0" }
    image_file = "private/etcd.tar.gz"
  }
  expect_failures = [var.internet]
}
