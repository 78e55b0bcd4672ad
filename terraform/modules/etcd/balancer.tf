# An internal network load balancer on the client port.

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_150:A cluster that is to be destroyed takes its balancer along; nothing is lost with it
  #checkov:skip=CKV_AWS_91:A network load balancer logs TLS listeners only, and this one passes TCP through
  count                            = var.load_balancer ? 1 : 0
  name                             = var.name
  load_balancer_type               = "network"
  internal                         = true
  subnets                          = [for zone in local.zones : var.subnets[zone].id]
  security_groups                  = [local.balancer_group]
  enable_cross_zone_load_balancing = true
  tags                             = local.tags
}

resource "aws_lb_target_group" "client" {
  #checkov:skip=CKV_AWS_378:The protocol is TCP; etcd speaks TLS through it, if tls.mode says so
  count                = var.load_balancer ? 1 : 0
  name                 = "${var.name}-client"
  port                 = local.client_port
  protocol             = "TCP"
  vpc_id               = var.vpc_id
  target_type          = "instance"
  preserve_client_ip   = "false" # else a member that uses the balancer and is led back to itself gets no answer
  deregistration_delay = 30

  # The client port accepts TCP without a quorum, and the balancer has no certificate to ask more of it: so the
  # supervisor is asked.
  health_check {
    protocol            = "HTTP"
    port                = local.status_port
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  tags = local.tags
}

resource "aws_lb_listener" "client" {
  count             = var.load_balancer ? 1 : 0
  load_balancer_arn = aws_lb.this[0].arn
  port              = local.client_port
  protocol          = "TCP"

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.client[0].arn
  }

  tags = local.tags
}
