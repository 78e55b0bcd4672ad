output "endpoint" {
  description = "Where clients reach the cluster: the load balancer; null without one."
  value       = one([for lb in aws_lb.this : "${local.scheme}://${lb.dns_name}:${local.client_port}"])
}

output "member_endpoints" {
  description = "The members' client URLs by node, in shape fixed. A group's members come and go."
  value       = { for name, node in aws_instance.node : name => "${local.scheme}://${node.private_ip}:${local.client_port}" }
}

output "instance_ids" {
  description = "The instances by node, in shape fixed."
  value       = { for name, node in aws_instance.node : name => node.id }
}

output "group_name" {
  description = "The Auto Scaling group's name, in shape group."
  value       = one(aws_autoscaling_group.this[*].name)
}

output "target_group_arn" {
  description = "The load balancer's target group: healthy is who is a voter with a quorum."
  value       = one(aws_lb_target_group.client[*].arn)
}

output "client_security_group_id" {
  description = "Give it to machines that use etcd."
  value       = aws_security_group.client.id
}

output "member_security_group_id" {
  description = "The members' own."
  value       = local.member_group
}

output "role_name" {
  description = "The members' role, for rights of your own."
  value       = aws_iam_role.member.name
}

output "claim" {
  description = "Where the claim is, s3://bucket/prefix; null without one."
  value       = local.claim
}

output "snapshots_place" {
  description = "Where snapshots are stored, s3://bucket/prefix; null without them."
  value       = local.snapshots_place
}

output "data_volume_ids" {
  description = "The data volumes by node, in shape fixed."
  value       = local.volumes
}

output "at_destroy" {
  description = "What becomes of the data volumes with the cluster: keep, snapshot or delete."
  value       = local.at_destroy
}
