"""An HTTP proxy as companies have them at the edge of a network: it tunnels (CONNECT), and nothing else.

    with ConnectProxy(names={"ec2.eu-west-1.amazonaws.com": (front.address, front.port)}) as proxy:
        lab.env["HTTPS_PROXY"] = proxy.url
        …
        assert proxy.tunnels == {"ec2.eu-west-1.amazonaws.com:443": 1}
"""

from __future__ import annotations

import base64
import socket
import threading
from collections import Counter
from contextlib import suppress

from muster_tools.lab.http_server import HttpServer, Reply, Request

PIECE_BYTES = 65536
CONNECT_TIMEOUT = 5  # seconds; everything is on this machine


class ConnectProxy:
    """`proxy.tunnels` counts by host:port what was let through, `proxy.requests` all that was asked for."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        names: dict[str, tuple[str, int]] | None = None,
        login: tuple[str, str] | None = None,
    ):
        self.names = names or {}  # the only DNS there is: where a name is, whatever port is asked for
        self.login = login  # user and password, if it wants any
        self.tunnels: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._server = HttpServer(address, 0, self._answer)

    @property
    def url(self) -> str:
        return self._server.url

    def url_for(self, user: str, password: str) -> str:
        return f"http://{user}:{password}@{self._server.address}:{self._server.port}"

    def __enter__(self) -> ConnectProxy:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def _answer(self, request: Request) -> Reply:
        self.requests[f"{request.method} {request.target}"] += 1
        if request.method != "CONNECT":
            return Reply(405)
        if self.login is not None and request.header("Proxy-Authorization") != _basic(*self.login):
            return Reply(407, headers=[("Proxy-Authenticate", 'Basic realm="lab"')])
        host, _, port = request.target.rpartition(":")
        try:
            far = socket.create_connection(self.names.get(host, (host, int(port))), CONNECT_TIMEOUT)
        except OSError:
            return Reply(502)
        far.settimeout(None)
        self.tunnels[request.target] += 1
        return Reply(200, takes_over=lambda near: _carry(near, far))


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _carry(near: socket.socket, far: socket.socket) -> None:
    with far:
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # either end may vanish
        while piece := source.recv(PIECE_BYTES):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
