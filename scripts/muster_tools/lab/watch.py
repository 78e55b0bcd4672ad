"""A watch through the JSON gateway, held open on a thread: what a client sees of its member's end."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from contextlib import suppress

from muster_tools.lab.etcd import NOT_YET, EtcdClient

OPENING_SECONDS = 10


class Watch:
    """Watch one key at one member, over a plain port; `ended_at` is when its stream ended (time.monotonic())."""

    def __init__(self, etcd: EtcdClient, key: str):
        self.events = 0
        self.ended_at: float | None = None
        body = json.dumps({"create_request": {"key": base64.b64encode(key.encode()).decode()}})
        head = f"POST /v3/watch HTTP/1.1\r\nHost: {etcd.address}\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket = socket.create_connection((etcd.address, etcd.client_port), OPENING_SECONDS)
        self._socket.sendall((head + body).encode())
        self._lines = self._socket.makefile("rb")
        while b'"created":true' not in (line := self._lines.readline()):
            if not line:
                raise ConnectionError("the watch was not opened")
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(*NOT_YET, ValueError):
            for line in self._lines:
                self.events += b'"events"' in line
        self.ended_at = time.monotonic()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
