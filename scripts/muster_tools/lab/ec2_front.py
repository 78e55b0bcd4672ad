"""One node's way to AWS: passes every call through to moto unchanged, unless a rule says otherwise.

A rule is a function of the call and of what would come next (the rules added before it, then moto):

    front.add(delayed(0.2))                    # until cleared
    front.add(throttled(), calls=2)            # the next two calls
    front.add(hidden(node.instance.id), action="DescribeInstances")

Rules that need no reply just don't ask for one. The Host header goes through as it came: SigV4 signs it.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Optional

from muster_tools.lab.http_server import HttpServer, Reply, Request

UPSTREAM_TIMEOUT = 30  # seconds; moto answers in ms
HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "content-type"}


@dataclass(frozen=True)
class Call:
    request: Request
    parameters: dict[str, str]
    healed: threading.Event  # set when the rules are cleared: bounds whatever a rule waits for

    @property
    def action(self) -> str:
        """The Query API's Action, or a JSON API's; S3's calls are told apart by method."""
        target = self.request.header("X-Amz-Target") or self.request.method
        return self.parameters.get("Action", target.rpartition(".")[2])

    def same_question(self) -> tuple[tuple[str, str], ...]:
        """What is asked, without who asks and when."""
        return tuple(sorted(self.parameters.items()))


Next = Callable[[], Optional[Reply]]
Rule = Callable[[Call, Next], Optional[Reply]]  # None drops the connection


@dataclass(eq=False)
class _Added:
    rule: Rule
    calls: int | None  # how many more; None: without end
    action: str | None  # only this one

    def takes(self, call: Call) -> bool:
        if self.calls == 0 or self.action not in (None, call.action):
            return False
        if self.calls is not None:
            self.calls -= 1
        return True


class Ec2Front:
    """`front.calls` counts by Action, whatever became of the call."""

    def __init__(self, upstream: str, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None):
        self.calls: Counter[str] = Counter()
        self._upstream = urllib.parse.urlsplit(upstream).netloc
        self._rules: list[_Added] = []
        self._guard = threading.Lock()
        self._last: dict[tuple[tuple[str, str], ...], Reply] = {}
        self._healed = threading.Event()
        self._server = HttpServer(address, port, self._answer, tls)

    url = property(lambda self: self._server.url)
    address = property(lambda self: self._server.address)
    port = property(lambda self: self._server.port)
    answered = property(lambda self: list(self._server.answered))

    def start(self) -> Ec2Front:
        self._server.start()
        return self

    def stop(self) -> None:
        """Connection refused from here on; start() opens the same port again, without rules."""
        self.clear()
        self._server.stop()

    def __enter__(self) -> Ec2Front:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, rule: Rule, calls: int | None = None, action: str | None = None) -> None:
        with self._guard:
            self._rules.append(_Added(rule, calls, action))

    def clear(self) -> None:
        """Heal; calls that hang are dropped."""
        with self._guard:
            self._rules.clear()
            healed, self._healed = self._healed, threading.Event()
        healed.set()

    def freeze(self) -> None:
        """A stale EC2: questions this node has asked before get their last answer again, until cleared."""
        with self._guard:
            remembered = dict(self._last)
        self.add(lambda call, proceed: remembered.get(call.same_question()) or proceed())

    def _answer(self, request: Request) -> Reply | None:
        with self._guard:
            call = Call(request, _parameters(request), self._healed)
            self.calls[call.action] += 1
            taking = [added.rule for added in self._rules if added.takes(call)]
        return _chain(call, taking, lambda: self._forward(call))

    def _forward(self, call: Call) -> Reply:
        request = call.request
        upstream = http.client.HTTPConnection(self._upstream, timeout=UPSTREAM_TIMEOUT)
        try:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                upstream.putheader(name, value)
            upstream.endheaders(request.body)
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        reply = Reply(answer.status, body, kept, answer.headers.get("Content-Type", "text/xml"))
        if request.method == "HEAD":
            reply.length = int(answer.headers.get("Content-Length", 0))
        if answer.status == 200:
            with self._guard:
                self._last[call.same_question()] = reply
        return reply


def _chain(call: Call, rules: list[Rule], forward: Next) -> Reply | None:
    """The rule added last decides first."""
    if not rules:
        return forward()
    *before, last = rules
    return last(call, lambda: _chain(call, before, forward))


def _parameters(request: Request) -> dict[str, str]:
    query = request.target.partition("?")[2]
    text = query or request.body.decode("latin-1")
    return dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
