# Who may reach what. Rules are resources of their own: an inline list and rules beside it would undo each other.

resource "aws_security_group" "member" {
  name_prefix            = "${var.name}-member-"
  description            = "Members of the etcd cluster ${var.name}"
  vpc_id                 = var.vpc_id
  revoke_rules_on_delete = true # the groups name each other
  tags                   = merge(local.tags, { Name = "${var.name}-member" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "client" {
  #checkov:skip=CKV2_AWS_5:It is for the machines of those who use etcd, which are not made here
  name_prefix = "${var.name}-client-"
  description = "Clients of the etcd cluster ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-client" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "balancer" {
  count                  = var.load_balancer ? 1 : 0
  name_prefix            = "${var.name}-balancer-"
  description            = "Load balancer of the etcd cluster ${var.name}"
  vpc_id                 = var.vpc_id
  revoke_rules_on_delete = true
  tags                   = merge(local.tags, { Name = "${var.name}-balancer" })

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  member_group   = aws_security_group.member.id
  balancer_group = one(aws_security_group.balancer[*].id)

  client_groups = merge(
    { clients = aws_security_group.client.id },
    { for name, id in var.client_security_groups : "clients-${name}" => id },
  )

  # To the members: name => port and source, a group or a block.
  to_members = merge(
    {
      peers   = { port = local.peer_port, group = local.member_group, cidr = null }
      members = { port = local.client_port, group = local.member_group, cidr = null }
    },
    { for name, id in local.client_groups : name => { port = local.client_port, group = id, cidr = null } },
    { for block in var.client_cidrs : "clients-${block}" => { port = local.client_port, group = null, cidr = block } },
    { for block in try(var.ssh.cidrs, []) : "ssh-${block}" => { port = 22, group = null, cidr = block } },
    var.load_balancer ? {
      balancer = { port = local.client_port, group = local.balancer_group, cidr = null }
      health   = { port = local.status_port, group = local.balancer_group, cidr = null }
    } : {},
  )
  to_balancer = var.load_balancer ? merge(
    { for name, id in local.client_groups : name => { group = id, cidr = null } },
    { members = { group = local.member_group, cidr = null } },
    { for block in var.client_cidrs : "clients-${block}" => { group = null, cidr = block } },
  ) : {}

  # From the members: each other, AWS and a registry by https; Ubuntu's packages (docker) come by http.
  from_members = merge(
    {
      peers   = { port = local.peer_port, group = local.member_group, cidr = null }
      members = { port = local.client_port, group = local.member_group, cidr = null }
      https   = { port = 443, group = null, cidr = "0.0.0.0/0" }
    },
    var.os == "ubuntu" && var.runtime == "container" ? { packages = { port = 80, group = null, cidr = "0.0.0.0/0" } } : {},
    var.load_balancer ? { balancer = { port = local.client_port, group = local.balancer_group, cidr = null } } : {},
  )
}

resource "aws_vpc_security_group_ingress_rule" "member" {
  #checkov:skip=CKV_AWS_24:Port 22 is opened to the blocks of var.ssh only, and its validation refuses /0
  for_each                     = local.to_members
  security_group_id            = local.member_group
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  referenced_security_group_id = each.value.group
  cidr_ipv4                    = each.value.cidr
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "member" {
  for_each                     = local.from_members
  security_group_id            = local.member_group
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  referenced_security_group_id = each.value.group
  cidr_ipv4                    = each.value.cidr
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "client" {
  for_each = merge(
    { members = local.member_group },
    var.load_balancer ? { balancer = local.balancer_group } : {},
  )
  security_group_id            = aws_security_group.client.id
  description                  = "to the ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = local.client_port
  to_port                      = local.client_port
  referenced_security_group_id = each.value
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "balancer" {
  for_each                     = local.to_balancer
  security_group_id            = local.balancer_group
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = local.client_port
  to_port                      = local.client_port
  referenced_security_group_id = each.value.group
  cidr_ipv4                    = each.value.cidr
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  for_each                     = var.load_balancer ? { clients = local.client_port, health = local.status_port } : {}
  security_group_id            = local.balancer_group
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = local.member_group
  tags                         = local.tags
}
