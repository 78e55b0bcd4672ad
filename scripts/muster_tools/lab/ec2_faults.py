"""Rules for `Ec2Front.add`: EC2 failing in the ways that are seen in the field, and EC2 being wrong."""

from __future__ import annotations

import email.utils
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Callable
from xml.etree import ElementTree

from muster_tools.lab.ec2_front import Call, Next, Rule
from muster_tools.lab.http_server import Reply

STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
SKEW_ALLOWED = timedelta(minutes=5)


# EC2 refuses.


def refused(status: int, code: str, message: str) -> Rule:
    """Any error, in EC2's words: <Response>, which is not moto's <ErrorResponse>."""
    return lambda call, proceed: error(status, code, message)


def throttled() -> Rule:
    return refused(503, "RequestLimitExceeded", "Request limit exceeded.")


def unauthorized() -> Rule:
    return refused(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")


def unavailable() -> Rule:
    """A load balancer's answer, not EC2's."""
    page = b"<html><head><title>500</title></head><body><h1>Internal Server Error</h1></body></html>"
    return lambda call, proceed: Reply(500, page, content_type="text/html")


def skewed_clock(offset: timedelta, refusal: Reply | None = None) -> Rule:
    """AWS's clock is off by this much: RequestExpired (or this) until the caller signs with the time of the Date header."""
    expired = refusal or error(400, "RequestExpired", "Request has expired.")

    def rule(call: Call, proceed: Next) -> Reply | None:
        now = datetime.now(timezone.utc) + offset
        if abs(_signed_at(call) - now) > SKEW_ALLOWED:
            reply: Reply | None = expired
        else:
            reply = proceed()
        if reply is None:
            return None
        others = [(name, value) for name, value in reply.headers if name.lower() != "date"]
        return replace(reply, headers=[*others, ("Date", email.utils.format_datetime(now, usegmt=True))])

    return rule


def _signed_at(call: Call) -> datetime:
    stamp = call.request.header("X-Amz-Date") or "19700101T000000Z"
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)


# EC2 answers, and the answer is damaged or late.


def delayed(seconds: float) -> Rule:
    def rule(call: Call, proceed: Next) -> Reply | None:
        call.healed.wait(seconds)
        return proceed()

    return rule


def hanging() -> Rule:
    """The connection is accepted and never answered."""

    def rule(call: Call, proceed: Next) -> None:
        call.healed.wait()

    return rule


def dropped() -> Rule:
    """The connection is closed without an answer."""
    return lambda call, proceed: None


def malformed() -> Rule:
    """XML whose tags don't match."""
    return _damaged(lambda reply: replace(reply, body=reply.body.replace(b"</instancesSet>", b"</instancesSets>", 1)))


def truncated() -> Rule:
    """Half of the document, and a Content-Length that says it is all."""
    return _damaged(lambda reply: replace(reply, body=reply.body[: len(reply.body) // 2]))


def cut() -> Rule:
    """Half of the document, then the connection is closed before the Content-Length is reached."""
    return _damaged(lambda reply: replace(reply, cut_after=len(reply.body) // 2))


def _damaged(damage: Callable[[Reply], Reply]) -> Rule:
    def rule(call: Call, proceed: Next) -> Reply | None:
        reply = proceed()
        return reply and damage(reply)

    return rule


def repeating_page(token: str = "again") -> Rule:
    """The first page again and again, always with the same token for the next."""
    pages: list[Reply] = []

    def repeat(call: Call, root: ElementTree.Element) -> None:
        for old in root.findall("{*}nextToken"):
            root.remove(old)
        ElementTree.SubElement(root, f"{{{_namespace(root)}}}nextToken").text = token

    rewritten = edited(repeat)

    def rule(call: Call, proceed: Next) -> Reply | None:
        if call.parameters.get("NextToken") == token and pages:
            return pages[0]
        reply = rewritten(call, proceed)
        if reply is not None:
            pages[:] = [reply]
        return reply

    return rule


# EC2 answers, and is wrong or stale. (`Ec2Front.freeze` gives the answers of a moment ago.)


def hidden(*ids: str) -> Rule:
    """These instances are not listed, and asked for by id they are not found: EC2 just after a launch."""

    def hide(call: Call, root: ElementTree.Element) -> None:
        for holder in root.findall(".//{*}instancesSet") + root.findall(".//{*}instanceStatusSet"):
            for item in list(holder):
                if item.findtext("{*}instanceId") in ids:
                    holder.remove(item)
        reservations = root.find("{*}reservationSet")
        for reservation in list(reservations if reservations is not None else ()):
            if not len(reservation.find("{*}instancesSet")):
                reservations.remove(reservation)

    rewritten = edited(hide)

    def rule(call: Call, proceed: Next) -> Reply | None:
        asked = {value for key, value in call.parameters.items() if key.startswith("InstanceId.")}
        missing = sorted(asked.intersection(ids))
        if missing:
            return error(400, "InvalidInstanceID.NotFound", f"The instance ID '{missing[0]}' does not exist")
        return rewritten(call, proceed)

    return rule


def shown_as(state: str, *ids: str) -> Rule:
    """These instances are listed in this state, e.g. shutting-down, which moto never shows."""

    def show(call: Call, root: ElementTree.Element) -> None:
        for item in _listed(root, "instancesSet", ids):
            shown = item.find("{*}instanceState")
            shown.find("{*}code").text = str(STATE_CODES[state])
            shown.find("{*}name").text = state

    return edited(show)


def launched(ago: timedelta, *ids: str) -> Rule:
    """These instances were launched for the first time so long ago, and not started since."""
    return _dated(ago, ids, "{*}launchTime", PRIMARY_ATTACHED)


def restarted(ago: timedelta, *ids: str) -> Rule:
    """These instances were started so long ago, and launched for the first time when EC2 says so (or a rule before this one)."""
    return _dated(ago, ids, "{*}launchTime")


# The lab's instances have the interface with deviceIndex 0 only.
PRIMARY_ATTACHED = "{*}networkInterfaceSet/{*}item/{*}attachment/{*}attachTime"


def _dated(ago: timedelta, ids: tuple[str, ...], *places: str) -> Rule:
    moment = (datetime.now(timezone.utc) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")

    def date(call: Call, root: ElementTree.Element) -> None:
        for item in _listed(root, "instancesSet", ids):
            for place in places:
                for shown in item.iterfind(place):  # a terminated instance has no interface
                    shown.text = moment

    return edited(date)


def impaired(*ids: str) -> Rule:
    """DescribeInstanceStatus says that these instances failed their checks; moto says ok of all."""

    def impair(call: Call, root: ElementTree.Element) -> None:
        for item in _listed(root, "instanceStatusSet", ids):
            for check in ("systemStatus", "instanceStatus"):
                item.find(f"{{*}}{check}/{{*}}status").text = "impaired"

    return edited(impair)


def edited(edit: Callable[[Call, ElementTree.Element], None]) -> Rule:
    """EC2's answers with status 200 after this edit of the parsed document; S3's are no XML."""

    def rule(call: Call, proceed: Next) -> Reply | None:
        reply = proceed()
        if reply is None or reply.status != 200 or "Action" not in call.parameters:
            return reply
        root = ElementTree.fromstring(reply.body)
        edit(call, root)
        return replace(reply, body=ElementTree.tostring(root, "utf-8", default_namespace=_namespace(root)))

    return rule


def error(status: int, code: str, message: str) -> Reply:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        "<RequestID>00000000-0000-4000-8000-000000000000</RequestID></Response>"
    )
    return Reply(status, text.encode(), content_type="text/xml;charset=UTF-8")


def _listed(root: ElementTree.Element, holder: str, ids: tuple[str, ...]) -> list[ElementTree.Element]:
    items = root.findall(f".//{{*}}{holder}/{{*}}item")
    return [item for item in items if item.findtext("{*}instanceId") in ids]


def _namespace(root: ElementTree.Element) -> str:
    """AWS's ends in a slash, moto's doesn't; hence also {*} in the searches above."""
    return root.tag[1:].partition("}")[0]
