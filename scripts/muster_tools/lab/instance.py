"""What EC2 says of one instance: plain values that the parts of the lab hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

REGION = "eu-west-1"
ACCOUNT = "123456789012"  # moto's
ROLE = "etcd-node"


@dataclass(frozen=True)
class Instance:
    id: str
    private_ip: str
    private_dns: str
    launch_time: datetime
    az: str
    state: str


@dataclass(frozen=True)
class Credentials:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str | None = field(repr=False)
    expiration: datetime | None
