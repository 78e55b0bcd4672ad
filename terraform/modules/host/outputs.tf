output "user_data" {
  description = "The user data, as text: cloud-config for ubuntu, Ignition's JSON for the others."
  sensitive   = true # inline_secrets may be in it
  value       = var.os == "ubuntu" ? "#cloud-config\n${yamlencode(local.cloud_config)}" : jsonencode(local.ignition)
}

output "environment" {
  description = "The variables that etcd-muster is started with."
  value       = local.environment
}
