"""An Auto Scaling group's lifecycle hooks: CompleteLifecycleAction, as strict as AWS's. moto's hooks never wait.

    with AutoScaling(lab.ec2.sessions) as group:
        lab.env["AWS_ENDPOINT_URL_AUTO_SCALING"] = group.url
        group.wait_for("etcd-launch", node.instance.id)     # the instance is held up in Pending:Wait
        …
        assert group.waiting == set()

Instances are of the group by their tag (`group.tags`). `group.completed` are the hooks that were told to continue, in turn.
"""

from __future__ import annotations

import threading
import urllib.parse
from collections import Counter
from datetime import datetime, timedelta, timezone

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from muster_tools.lab.http_server import HttpServer, Reply, Request
from muster_tools.lab.instance import REGION, Credentials

API_VERSION = "2011-01-01"
SERVICE = "autoscaling"
SKEW_ALLOWED = timedelta(minutes=5)
NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"


class AutoScaling:
    """`group.next` holds replies for the next calls, given instead of an answer."""

    def __init__(self, sessions: dict[str, Credentials], group: str = "etcd"):
        self.group = group
        self.waiting: set[tuple[str, str]] = set()  # (hook, instance)
        self.completed: list[tuple[str, str]] = []
        self.calls: Counter[str] = Counter()  # by hook, whatever became of the call
        self.refusals: list[str] = []  # what a correct caller never gets to hear
        self.next: list[Reply] = []
        self._sessions = sessions
        self._guard = threading.Lock()
        self._server = HttpServer("127.0.0.1", 0, self._answer)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def tags(self) -> dict[str, str]:
        """What makes an instance one of the group."""
        return {"etcd": "1", "aws:autoscaling:groupName": self.group}

    def wait_for(self, hook: str, instance: str) -> None:
        """The hook holds that instance up until it is completed."""
        with self._guard:
            self.waiting.add((hook, instance))

    def __enter__(self) -> AutoScaling:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def _answer(self, request: Request) -> Reply:
        asked = dict(urllib.parse.parse_qsl(request.body.decode(), keep_blank_values=True))
        with self._guard:
            self.calls[asked.get("LifecycleHookName", "")] += 1
            if self.next:
                return self.next.pop(0)
            wrong = self._unsigned(request) or self._malformed(request, asked)
            if wrong:
                self.refusals.append(wrong)
                unsigned = "signature" in wrong
                return error(403, "SignatureDoesNotMatch", wrong) if unsigned else error(400, "InvalidQueryParameter", wrong)
            return self._complete(asked)

    def _complete(self, asked: dict[str, str]) -> Reply:
        action = (asked["LifecycleHookName"], asked["InstanceId"])
        if asked["AutoScalingGroupName"] != self.group or action not in self.waiting:
            return error(400, "ValidationError", f"No active Lifecycle Action found with instance ID {action[1]}")
        self.waiting.discard(action)
        self.completed.append(action)
        body = (
            f'<CompleteLifecycleActionResponse xmlns="{NAMESPACE}"><CompleteLifecycleActionResult/>'
            "<ResponseMetadata><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ResponseMetadata>"
            "</CompleteLifecycleActionResponse>"
        )
        return Reply(200, body.encode(), content_type="text/xml")

    def _malformed(self, request: Request, asked: dict[str, str]) -> str | None:
        if request.method != "POST" or request.target != "/":
            return f"{request.method} {request.target}"
        if (asked.get("Action"), asked.get("Version")) != ("CompleteLifecycleAction", API_VERSION):
            return f"{asked.get('Action')} {asked.get('Version')}"
        if asked.get("LifecycleActionResult") != "CONTINUE":
            return f"LifecycleActionResult {asked.get('LifecycleActionResult')}"
        wanted = {"Action", "Version", "AutoScalingGroupName", "InstanceId", "LifecycleActionResult", "LifecycleHookName"}
        return None if set(asked) == wanted else f"parameters {sorted(asked)}"

    def _unsigned(self, request: Request) -> str | None:
        """What is wrong with the signature; recomputed by botocore over the headers that it says it covers."""
        kind, _, rest = (request.header("Authorization") or "").partition(" ")
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        if kind != "AWS4-HMAC-SHA256" or set(parts) != {"Credential", "SignedHeaders", "Signature"}:
            return "no signature"
        key, date, *scope = parts["Credential"].split("/")
        if scope != [REGION, SERVICE, "aws4_request"]:
            return f"signature for {scope}"
        session = self._sessions.get(key)
        if session is None or request.header("X-Amz-Security-Token") != session.token:
            return "signature by nobody known"
        stamp = request.header("X-Amz-Date") or ""
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        if abs(datetime.now(timezone.utc) - signed_at) > SKEW_ALLOWED or not stamp.startswith(date):
            return f"signature of {stamp}"
        names = parts["SignedHeaders"].split(";")
        if not {"host", "x-amz-date", "x-amz-security-token"} <= set(names):
            return f"signature over {names} only"
        headers = {name: request.header(name) for name in names}
        url = f"http://{request.header('Host')}{request.target}"
        replayed = AWSRequest(method=request.method, url=url, headers=headers, data=request.body)
        replayed.context["timestamp"] = stamp
        signer = SigV4Auth(BotoCredentials(session.access_key_id, session.secret_access_key, session.token), SERVICE, REGION)
        text = signer.string_to_sign(replayed, signer.canonical_request(replayed))
        return None if signer.signature(text, replayed) == parts["Signature"] else "signature doesn't match"


def error(status: int, code: str, message: str) -> Reply:
    body = (
        f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>'
        "</Error><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ErrorResponse>"
    )
    return Reply(status, body.encode(), content_type="text/xml")


def denied() -> Reply:
    return error(
        403,
        "AccessDenied",
        "User: arn:aws:sts::123456789012:assumed-role/etcd-node/i-0 is not authorized to perform: "
        "autoscaling:CompleteLifecycleAction because no identity-based policy allows the "
        "autoscaling:CompleteLifecycleAction action",
    )


def throttled() -> Reply:
    return error(400, "Throttling", "Rate exceeded")
