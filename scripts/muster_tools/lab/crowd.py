"""Strangers at a port, from one address: connections that say nothing, renewed as they are closed, and requests, each under a name
never heard before.

A process of its own, which ends when its standard input does and then prints what it met, as JSON: beside the lab's servers, in one
process, it would slow those, too.
"""

from __future__ import annotations

import json
import random
import resource
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

RENEWED_A_SECOND = 400  # as many as two thousand of which each lives for five seconds
GIVEN_UP_AFTER = 3  # seconds; what a supervisor waits for another by default
TICK = 0.002
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Crowd:
    """`with Crowd(("127.0.0.1", 2380), idle=2000, requests=200) as crowd: …`, and afterwards `crowd.met`."""

    def __init__(self, at: tuple[str, int], source: str, idle: int, requests: int = 0, path: str = "/muster/v1/hello"):
        self._arguments = [at[0], str(at[1]), source, str(idle), str(requests), path]
        self.met: dict[str, float] = {}

    def __enter__(self) -> Crowd:
        command = [sys.executable, str(Path(__file__)), *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "all are there\n"
        return self

    def __exit__(self, *_: object) -> None:
        told, _ = self._process.communicate(timeout=30)
        self.met = json.loads(told)


class _Crowd:
    def __init__(self, host: str, port: str, source: str, idle: str, requests: str, path: str):
        self.at, self.source, self.path = (host, int(port)), source, path
        self.idle_wanted, self.rate = int(idle), int(requests)
        self.selector = selectors.DefaultSelector()
        self.idle: set[socket.socket] = set()
        self.asking: dict[socket.socket, tuple[float, bytearray]] = {}
        self.waits: deque[float] = deque()
        self.met = {"answered": 0, "unanswered": 0, "renewed": 0}

    def run(self) -> None:
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        began, opened, asked, told = time.monotonic(), 0.0, 0, False
        while True:
            now = time.monotonic()
            # All at once in the first second, then as many as are closed.
            allowed = self.idle_wanted + RENEWED_A_SECOND * (now - began)
            while len(self.idle) < self.idle_wanted and opened < allowed:
                self.open_idle()
                opened += 1
            if not told and opened >= self.idle_wanted:
                print("all are there", flush=True)
                told, began, opened, asked = True, now, self.idle_wanted, 0
            while told and asked < self.rate * (now - began):
                self.ask()
                asked += 1
            for stranger in [one for one, (at, _) in self.asking.items() if now - at > GIVEN_UP_AFTER]:
                self.settle(stranger, answered=False)
            for key, _ in self.selector.select(TICK):
                if key.fileobj is sys.stdin:
                    self.met["renewed"] = int(opened) - self.idle_wanted
                    self.met["median_ms"], self.met["worst_ms"] = self.told_waits()
                    print(json.dumps(self.met))
                    return
                self.hear(key.fileobj)

    def told_waits(self) -> tuple[float, float]:
        waits = sorted(self.waits) or [0.0]
        return round(1000 * waits[len(waits) // 2], 2), round(1000 * waits[-1], 2)

    def connect(self, events: int) -> socket.socket:
        one = socket.socket()
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        one.bind((self.source, 0))
        with suppress(BlockingIOError):
            one.connect(self.at)
        self.selector.register(one, events)
        return one

    def open_idle(self) -> None:
        self.idle.add(self.connect(selectors.EVENT_READ))

    def ask(self) -> None:
        self.asking[self.connect(selectors.EVENT_WRITE)] = (time.monotonic(), bytearray())

    def hear(self, one: socket.socket) -> None:
        try:
            if one in self.asking and self.selector.get_key(one).events == selectors.EVENT_WRITE:
                name = f"i-{random.getrandbits(68):017x}"
                one.send(f"GET {self.path} HTTP/1.1\r\nhost: {self.at[0]}\r\nx-muster-from: {name}\r\n\r\n".encode())
                self.selector.modify(one, selectors.EVENT_READ)
                return
            heard = one.recv(65536)
        except OSError:
            heard = b""
        if one in self.idle:
            if not heard:
                self.idle.discard(one)
                self.close(one)
            return
        self.asking[one][1].extend(heard)
        if not heard:
            self.settle(one, answered=self.asking[one][1].startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")))

    def settle(self, one: socket.socket, answered: bool) -> None:
        at, _ = self.asking.pop(one)
        self.met["answered" if answered else "unanswered"] += 1
        if answered:
            self.waits.append(time.monotonic() - at)
        self.close(one)

    def close(self, one: socket.socket) -> None:
        self.selector.unregister(one)
        one.close()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _Crowd(*sys.argv[1:]).run()
