"""The instance metadata service (IMDSv2) of one instance, as strict as EC2's, and its failures.

It answers on the node's own address, or where it is told: a real one is link-local, and several nodes share this machine.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Callable

from muster_tools.lab.http_server import HttpServer, Reply, Request
from muster_tools.lab.instance import ACCOUNT, REGION, ROLE, Credentials, Instance

PORT = 1338
MAX_TOKEN_TTL_SECONDS = 21600
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"

TOKEN_PATH = "/latest/api/token"
ROLES_PATH = "/latest/meta-data/iam/security-credentials/"

FAULTS = {
    "disabled": "403 to everything: the instance's metadata endpoint is turned off",
    "no-role": "404 on the role: no instance profile",
    "silent": "the token request is never answered: hop limit 1 and a container in between",
    "token-rejected-once": "the next read is refused with 401, and all tokens given so far with it",
    "creds-code-failed": "200, but the credentials' Code is not Success",
    "expired-credentials": "credentials whose Expiration has passed",
    "no-listener": "connection refused",
}


class Imds:
    """`imds.fault = "silent"` takes effect with the next request; None heals. `imds.requests` counts by path."""

    def __init__(
        self,
        instance: Instance,
        credentials: Callable[[], Credentials],
        port: int = PORT,
        address: str | None = None,
    ):
        self.role = ROLE
        self.requests: Counter[str] = Counter()
        # Settable: say, "autoscaling/target-lifecycle-state" under meta-data, or an item taken away (404).
        self.meta_data = {
            "instance-id": instance.id,
            "local-ipv4": instance.private_ip,
            "local-hostname": instance.private_dns,
            "placement/availability-zone": instance.az,
            "placement/region": REGION,
            "services/domain": "amazonaws.com",
            "services/partition": "aws",
            "autoscaling/target-lifecycle-state": "InService",
        }
        self.identity = {
            "accountId": ACCOUNT,
            "architecture": "x86_64",
            "availabilityZone": instance.az,
            "billingProducts": None,
            "imageId": "ami-0123456789abcdef0",
            "instanceId": instance.id,
            "instanceType": "t3.micro",
            "kernelId": None,
            "pendingTime": _iso(instance.launch_time),
            "privateIp": instance.private_ip,
            "ramdiskId": None,
            "region": REGION,
            "version": "2017-09-30",
        }
        self._make_credentials = credentials
        self._credentials = credentials()  # EC2 has them before the instance boots
        self._tokens: dict[str, float] = {}  # token -> monotonic time of its end
        self._fault: str | None = None
        self._healed = threading.Event()  # ends the waits of callers that hang now
        self._server = HttpServer(address or instance.private_ip, port, self._answer)

    url = property(lambda self: self._server.url)
    answered = property(lambda self: list(self._server.answered))

    def start(self) -> Imds:
        self._server.start()
        return self

    def stop(self) -> None:
        self._let_go()
        self._server.stop()

    @property
    def fault(self) -> str | None:
        return self._fault

    @fault.setter
    def fault(self, name: str | None) -> None:
        if name is not None and name not in FAULTS:
            raise ValueError(f"no such fault: {name}; there are {', '.join(FAULTS)}")
        self._fault = name
        self._let_go()
        if name == "no-listener":
            self._server.stop()
        else:
            self._server.start()  # no effect when it runs

    def expire_tokens(self) -> None:
        self._tokens.clear()

    def rotate_credentials(self, credentials: Credentials | None = None) -> None:
        """The role gets these, or a new session, as EC2 does some time before the old one ends."""
        self._credentials = credentials or self._make_credentials()

    def notice_spot_interruption(self, action: str = "terminate", within: float = 120) -> None:
        due = datetime.now(timezone.utc) + timedelta(seconds=within)
        self.meta_data["spot/instance-action"] = json.dumps({"action": action, "time": _iso(due)})

    def _let_go(self) -> None:
        healed, self._healed = self._healed, threading.Event()
        healed.set()

    # Answering.

    def _answer(self, request: Request) -> Reply | None:
        path = request.target.partition("?")[0]
        self.requests[path] += 1
        if self._fault == "disabled":
            return Reply(403)
        if request.method == "PUT" and path == TOKEN_PATH:
            return self._give_token(request)
        if request.method != "GET" or path == TOKEN_PATH:
            return Reply(405)
        if not self._has_valid_token(request):
            return Reply(401)
        return self._item(path)

    def _give_token(self, request: Request) -> Reply | None:
        if self._fault == "silent":
            self._healed.wait()
            return None
        if request.header("X-Forwarded-For") is not None:
            return Reply(403)  # EC2's guard against open proxies
        ttl = request.header(TTL_HEADER) or ""
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= MAX_TOKEN_TTL_SECONDS):
            return Reply(400)
        token = secrets.token_urlsafe(42)
        self._tokens[token] = time.monotonic() + int(ttl)
        return Reply(200, token.encode(), [(TTL_HEADER, ttl)])

    def _has_valid_token(self, request: Request) -> bool:
        if self._fault == "token-rejected-once":
            self._fault = None
            self._tokens.clear()
        token = request.header(TOKEN_HEADER) or ""
        return self._tokens.get(token, 0) > time.monotonic()

    def _item(self, path: str) -> Reply:
        if path.startswith(ROLES_PATH.rstrip("/")):
            return self._role_item(path)
        if path == "/latest/dynamic/instance-identity/document":
            return Reply(200, json.dumps(self.identity, indent=2).encode())
        item = self.meta_data.get(path.partition("/latest/meta-data/")[2])
        return Reply(404) if item is None else Reply(200, item.encode())

    def _role_item(self, path: str) -> Reply:
        if self._fault == "no-role":
            return Reply(404)
        if path in (ROLES_PATH, ROLES_PATH.rstrip("/")):
            return Reply(200, self.role.encode())
        if path == ROLES_PATH + self.role:
            return Reply(200, json.dumps(self._session(), indent=2).encode())
        return Reply(404)

    def _session(self) -> dict[str, str]:
        now = datetime.now(timezone.utc)
        if self._fault == "creds-code-failed":
            message = "EC2 cannot assume the role etcd-node."
            return {"Code": "AssumeRoleUnauthorizedAccess", "Message": message, "LastUpdated": _iso(now)}
        held = self._credentials
        expiration = now - timedelta(minutes=1) if self._fault == "expired-credentials" else held.expiration
        return {
            "Code": "Success",
            "LastUpdated": _iso(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": held.access_key_id,
            "SecretAccessKey": held.secret_access_key,
            "Token": held.token,
            "Expiration": _iso(expiration),
        }


def _iso(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
