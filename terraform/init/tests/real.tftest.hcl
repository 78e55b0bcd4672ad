# A plan by the real provider, in an account, or in an emulator of one (tests/e2e/terraform). Nothing is made.

run "flatcar_group_air_gapped" {
  command = plan
  variables {
    ami_id     = "ami-0123456789abcdef0"
    os         = "flatcar"
    shape      = "group"
    tls        = "automatic"
    runtime    = "container"
    image      = { name = "etcd-muster:1.0" }
    image_file = "private/etcd.tar.gz"
  }
  assert {
    condition     = length(aws_s3_object.upload) == 1
    error_message = "the image is put where the members fetch it"
  }
}

