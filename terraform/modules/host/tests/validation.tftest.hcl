# What can't work is refused with a sentence, before anything is made.

variables {
  os       = "ubuntu"
  runtime  = "binary"
  size     = 3
  binaries = [{ source = "s3://bucket/etcd.tar.gz", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }]
}

run "what_is_right" {
  command = plan
  assert {
    condition     = output.environment["MUSTER_CLUSTER_SIZE"] == "3" && !contains(keys(output.environment), "MUSTER_TAGS")
    error_message = "the size is told, and tags that are the program's default are not"
  }
}

run "tags_of_ones_own" {
  command = plan
  variables {
    filter_tags = { etcd = "1", stage = "prod" }
  }
  assert {
    condition     = output.environment["MUSTER_TAGS"] == "etcd=1,stage=prod"
    error_message = "other tags than etcd=1 are told to the program"
  }
}

run "an_empty_variable_takes_a_default_away" {
  command = plan
  variables {
    environment = { ETCD_MEMBER_TYPE = "", MUSTER_REMOVE_INTERVAL = "5m" }
  }
  assert {
    condition     = !contains(keys(output.environment), "ETCD_MEMBER_TYPE") && output.environment["MUSTER_REMOVE_INTERVAL"] == "5m"
    error_message = "variables of one's own win"
  }
}

run "an_unknown_os" {
  command = plan
  variables {
    os = "coreos"
  }
  expect_failures = [var.os]
}

run "a_binary_without_binaries" {
  command = plan
  variables {
    binaries = []
  }
  expect_failures = [var.binaries]
}

run "a_source_by_plain_http" {
  command = plan
  variables {
    binaries = [{ source = "http://example.com/etcd.tar.gz", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }]
  }
  expect_failures = [var.binaries]
}

run "a_source_without_its_sum" {
  command = plan
  variables {
    binaries = [{ source = "s3://bucket/etcd.tar.gz", sha256 = "" }]
  }
  expect_failures = [var.binaries]
}

run "a_container_without_an_image" {
  command = plan
  variables {
    runtime = "container"
  }
  expect_failures = [var.image]
}

run "an_image_name_that_is_a_command_line" {
  command = plan
  variables {
    runtime = "container"
    image   = { name = "etcd-muster --privileged" }
  }
  expect_failures = [var.image]
}

run "an_archive_without_its_sum" {
  command = plan
  variables {
    runtime = "container"
    image   = { name = "etcd-muster", archive = { source = "s3://bucket/image.tar", sha256 = "none" } }
  }
  expect_failures = [var.image]
}

run "an_unknown_network" {
  command = plan
  variables {
    container_network = "overlay"
  }
  expect_failures = [var.container_network]
}

run "a_value_that_systemd_and_docker_read_differently" {
  command = plan
  variables {
    environment = { MUSTER_EXTRA_SANS = "\"a b\"" }
  }
  expect_failures = [var.environment]
}

run "a_value_of_two_lines" {
  command = plan
  variables {
    environment = { ETCD_OPTS = "a\nMUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes" }
  }
  expect_failures = [var.environment]
}
