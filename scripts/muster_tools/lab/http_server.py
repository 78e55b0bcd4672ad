"""A small threaded HTTP/1.1 server: the base of the lab's metadata service, EC2 fronts and replay.

The standard library's would nearly do, but it looks its own name up when it binds, sends head and body in two packets,
and leaves open connections alive when it is closed: a metadata service that is "gone" must refuse, and drop, at once.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import BinaryIO, Callable, Optional

KEPT_ANSWERS = 1000
ONE_PACKET_BYTES = 32768  # head and body go out together up to here; beyond it a copy costs more than a packet


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # path and query, as sent
    headers: list[tuple[str, str]]  # as sent: a signature covers them
    body: bytes

    def header(self, name: str) -> str | None:
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass
class Reply:
    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "text/plain"
    cut_after: int | None = None  # drop the connection after so many bytes of the body
    length: int | None = None  # of a body that is not sent: the answer to a HEAD has it
    takes_over: Callable[[socket.socket], None] | None = None  # has the connection after the head, until it returns

    def send(self, connection: socket.socket) -> None:
        head = self._head()
        if len(self.body) <= ONE_PACKET_BYTES:
            connection.sendall(head + self.body[: self.cut_after])
        else:
            connection.sendall(head)
            connection.sendall(memoryview(self.body)[: self.cut_after])

    def _head(self) -> bytes:
        phrase = HTTPStatus(self.status).phrase
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        if self.takes_over is None:  # else what follows has no length
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body) if self.length is None else self.length}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


# None drops the connection without a word.
Answer = Callable[[Request], Optional[Reply]]


class HttpServer:
    """Answers on one address and port until stopped; can be started again. With `tls`, over that.

    `most_bytes` is asked with each head how much of the body is read before the connection is dropped; None: all, and it isn't."""

    def __init__(
        self,
        address: str,
        port: int,
        answer: Answer,
        tls: ssl.SSLContext | None = None,
        most_bytes: Callable[[Request], Optional[int]] = lambda head: None,
    ):
        self.address = address
        self.port = port  # 0: the kernel's choice, known once started
        # From a request's arrival until its answer was had, by the clock that logs go by; of the last ones.
        self.answered: deque[tuple[float, float]] = deque(maxlen=KEPT_ANSWERS)
        self._answer = answer
        self._tls = tls
        self._most_bytes = most_bytes
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{in_url(self.address)}:{self.port}"

    def start(self) -> HttpServer:
        if self._listener is not None:
            return self
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.create_server((self.address, self.port), family=family, backlog=128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Refuse from here on, and drop who is connected."""
        if self._listener is None or self._acceptor is None:
            return
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept; close alone doesn't
        self._listener.close()
        self._acceptor.join()
        self._listener = None
        with self._guard:
            for connection in self._connections:
                _hang_up(connection)

    def __enter__(self) -> HttpServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                with suppress(OSError):  # the caller is gone already: what serves it finds out
                    connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with self._guard:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            with connection.makefile("rb") as stream:
                while self._exchange(connection, stream):
                    pass
        except OSError:
            pass  # the caller went away, or we were stopped
        except Exception:  # a bug in a handler: say it where the test's output is, and hang up
            if self._listener is not None:  # once stopped, what the handler stands on may be gone as well
                traceback.print_exc(file=sys.stderr)
        finally:
            with self._guard:
                self._connections.discard(connection)
            _hang_up(connection)
            connection.close()

    def _welcome(self, head: Request, connection: socket.socket) -> int | None:
        most = self._most_bytes(head)
        if most is None and (head.header("Expect") or "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return most

    def _exchange(self, connection: socket.socket, stream: BinaryIO) -> bool:
        """One request and its reply; whether the connection lives on."""
        request = read_request(stream, lambda head: self._welcome(head, connection))
        if request is None:
            return False
        began = time.time()
        reply = self._answer(request)
        if reply is None:
            return False
        self.answered.append((began, time.time()))
        reply.send(connection)
        if reply.takes_over is not None:
            reply.takes_over(connection)
            return False
        return reply.cut_after is None and (request.header("Connection") or "").lower() != "close"


def read_request(stream: BinaryIO, welcome: Callable[[Request], Optional[int]] = lambda head: None) -> Request | None:
    """The next request, or None when the caller has closed. `welcome` hears the head, and says how much of the body is read at most."""
    line = stream.readline(65537)
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = []
    for line in iter(lambda: stream.readline(65537), b"\r\n"):
        if not line:
            return None
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip(), value.strip()))
    request = Request(method, target, headers, b"")
    if request.header("Transfer-Encoding"):
        raise ValueError(f"{method} {target}: the lab reads bodies with a Content-Length only")
    length = int(request.header("Content-Length") or 0)
    most = welcome(request)
    if most is not None and most < length:
        stream.read(most)
        return None
    return Request(method, target, headers, stream.read(length)) if length else request


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # already closed by the other side
        connection.shutdown(socket.SHUT_RDWR)
