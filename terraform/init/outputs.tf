output "endpoint" {
  description = "Where clients reach the cluster."
  value       = module.instance_etcd.endpoint
}

output "member_endpoints" {
  description = "The members' client URLs, in shape fixed."
  value       = module.instance_etcd.member_endpoints
}

output "instance_ids" {
  description = "The instances, in shape fixed."
  value       = module.instance_etcd.instance_ids
}

output "group_name" {
  description = "The Auto Scaling group, in shape group."
  value       = module.instance_etcd.group_name
}

output "endpoint_health" {
  description = "etcdctl's word on a member, through Session Manager: eval it."
  value = !var.session_manager ? null : join(" ", [
    "aws ssm start-session --region ${var.region} --document-name AWS-StartInteractiveCommand",
    "--parameters 'command=sudo /opt/etcd/bin/node-etcdctl endpoint health' --target",
    var.shape == "fixed" ? one(slice(values(module.instance_etcd.instance_ids), 0, 1)) :
    "$(aws autoscaling describe-auto-scaling-groups --region ${var.region} --auto-scaling-group-names ${module.instance_etcd.group_name} --query 'AutoScalingGroups[0].Instances[0].InstanceId' --output text)",
  ])
}

output "target_group_arn" {
  description = "The load balancer's target group, whose health scripts/run.sh waits for."
  value       = module.instance_etcd.target_group_arn
}

output "client_security_group_id" {
  description = "Give it to machines that use etcd."
  value       = module.instance_etcd.client_security_group_id
}

output "data_volume_ids" {
  description = "The data volumes, in shape fixed."
  value       = module.instance_etcd.data_volume_ids
}

output "at_destroy" {
  description = "What becomes of the data volumes with the cluster: keep, snapshot or delete."
  value       = module.instance_etcd.at_destroy
}

output "claim" {
  description = "Where the claim is, s3://bucket/prefix; null without one."
  value       = module.instance_etcd.claim
}

output "snapshots_place" {
  description = "Where snapshots are stored."
  value       = module.instance_etcd.snapshots_place
}

output "size" {
  description = "How many members there are to be."
  value       = var.instance_count
}

output "region" {
  description = "The region."
  value       = var.region
}
