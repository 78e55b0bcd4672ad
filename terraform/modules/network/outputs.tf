output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "subnets" {
  description = "The private subnets, as modules/etcd takes them. Known only when they lead where the instances need to go."
  value       = { for zone, subnet in aws_subnet.private : zone => { id = subnet.id, cidr = subnet.cidr_block } }
  depends_on  = [aws_route.private, aws_route_table_association.private, aws_vpc_endpoint.s3, aws_vpc_endpoint.interface, aws_vpc_security_group_ingress_rule.endpoint]
}
