"""A client of all members, in a process of its own: it puts at a steady rate, reads in between, and remembers what it was told.

    python -m muster_tools.bench.client ADDRESS...

Until stdin ends; the history then goes to stdout. What is measured must not wait for this python's other threads. A put is begun when it
is due, at the members in turn, whatever became of those before; only where a member owes many answers, the next member gets it. As with
etcd's own client, a member that takes no connection is passed over for a moment and the put goes to the next, but what was sent is not
sent again: whether it took effect nobody knows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from muster_tools.bench.history import History, Put, Read
from muster_tools.lab.etcd import CLIENT_PORT
from muster_tools.repository import SCRIPTS

PUTS_A_SECOND, READS_A_SECOND = 500, 100
PATIENCE_SECONDS = 2  # for an answer, as the lab's client has
AVOIDED_SECONDS = 0.1  # who refused a connection
OWED = 32  # answers by one member; where all owe as many, what is due waits
# An answer is owed no longer than this: puts that were on their way through a member to a leader which has just changed are never
# answered, and a client that waited for each of them would tell of its own patience.
OWED_SECONDS = 0.5
PREFIX = "bench/"
STOP_BOUND_SECONDS = 30


class Running:
    """The process, from this side: it puts once this is made. `stop` returns its history."""

    def __init__(self, addresses: Iterable[str]):
        command = [sys.executable, "-m", __name__, *addresses]
        self._process = subprocess.Popen(command, cwd=SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdout.readline()

    def stop(self) -> History:
        told, _ = self._process.communicate(timeout=STOP_BOUND_SECONDS)
        found = json.loads(told)
        return History([Put(*one) for one in found["puts"]], [Read(*one) for one in found["reads"]])

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


# The process itself.


class Unanswered(Exception):
    """The connection was refused, broke or stayed silent, or etcd answered with an error."""


class Connection(asyncio.Protocol):
    """One request at a time, kept open."""

    def __init__(self) -> None:
        self.is_open = True
        self._answer: asyncio.Future[bytes] | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._end()

    def eof_received(self) -> None:
        self._end()  # and the transport closes

    def _end(self) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unanswered("broken off"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if blank and _is_whole(head.lower(), body) and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._received)

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    async def ask(self, request: bytes) -> dict:
        self._received, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            answer = await asyncio.wait_for(self._answer, PATIENCE_SECONDS)
        except asyncio.TimeoutError:
            raise Unanswered("silent") from None
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Unanswered(_said(answer))
        return json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])


def _said(answer: bytes) -> str:
    """The error in etcd's words, or the status line."""
    status, body = answer.partition(b"\r\n")[0], answer.partition(b"\r\n\r\n")[2]
    with suppress(ValueError, KeyError):
        return json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["message"]
    return status.decode(errors="replace")


def _is_whole(head: bytes, body: bytes) -> bool:
    if b"\r\ntransfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length or 0)


class Owed:
    """Settled once: at the block's end, or by time."""

    def __init__(self, settle: Callable[[], None]):
        self._settle = settle
        self._is_settled = False
        self._timer = asyncio.get_running_loop().call_later(OWED_SECONDS, self._end)

    def _end(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._settle()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._end()


class Client:
    def __init__(self, addresses: list[str]):
        self.puts: list[Put] = []
        self.reads: list[Read] = []
        self._idle: dict[str, list[Connection]] = {address: [] for address in addresses}
        self._avoided = dict.fromkeys(addresses, 0.0)  # until when
        self._owed = dict.fromkeys(addresses, 0)
        self._turn = 0
        self._last: Put | None = None  # acknowledged

    async def run(self, until: asyncio.Event) -> None:
        room = asyncio.Semaphore(OWED * len(self._idle))
        await asyncio.gather(steady(PUTS_A_SECOND, self._put, room, until), steady(READS_A_SECOND, self._read, room, until))

    async def _put(self, number: int) -> None:
        put = Put(number, time.monotonic(), 0.0, None)
        self.puts.append(put)
        try:
            answer = await self._ask("put", {"key": _encode(f"{PREFIX}{number}"), "value": _encode(str(number))})
            put.revision = int(answer["header"]["revision"])
            self._last = put
        except Unanswered as reason:
            put.why = str(reason)
        put.answered = time.monotonic()

    async def _read(self, _: int) -> None:
        put, called = self._last, time.monotonic()
        if put is None:
            return
        with suppress(Unanswered):
            answer = await self._ask("range", {"key": _encode(f"{PREFIX}{put.number}")})
            found = [int(kv["mod_revision"]) for kv in answer.get("kvs", [])]
            self.reads.append(Read(put.number, called, time.monotonic(), int(answer["header"]["revision"]), found[0] if found else None))

    async def _ask(self, what: str, body: dict) -> dict:
        text = json.dumps(body).encode()
        addresses = list(self._idle)
        self._turn += 1
        turned = [addresses[(self._turn + place) % len(addresses)] for place in range(len(addresses))]
        for address in sorted(turned, key=lambda one: (self._owed[one] >= OWED, self._avoided[one] > time.monotonic())):
            self._owed[address] += 1
            with Owed(partial(self._has_one_less, address)):
                connection = await self._connection(address)
                if connection is None:
                    continue
                head = f"POST /v3/kv/{what} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(text)}\r\n\r\n"
                return await self._answer(address, connection, head.encode() + text)
        raise Unanswered("refused by all")

    def _has_one_less(self, address: str) -> None:
        self._owed[address] -= 1

    async def _answer(self, address: str, connection: Connection, request: bytes) -> dict:
        try:
            answer = await connection.ask(request)
        except Unanswered:
            connection.close()
            raise
        self._idle[address].append(connection)
        return answer

    async def _connection(self, address: str) -> Connection | None:
        """None where it is refused."""
        while self._idle[address]:
            connection = self._idle[address].pop()
            if connection.is_open:
                return connection
        try:
            opening = asyncio.get_running_loop().create_connection(Connection, address, CLIENT_PORT)
            return (await asyncio.wait_for(opening, PATIENCE_SECONDS))[1]
        except (OSError, asyncio.TimeoutError):
            self._avoided[address] = time.monotonic() + AVOIDED_SECONDS
            return None


async def steady(rate: float, what, room: asyncio.Semaphore, until: asyncio.Event) -> None:
    """Begin one after another when it is due and there is room; then wait for those under way."""
    began, count, tasks = time.monotonic(), 0, set()

    async def begin(number: int) -> None:
        with Owed(room.release):
            await what(number)

    while not until.is_set():
        await asyncio.sleep(max(began + count / rate - time.monotonic(), 0))
        await room.acquire()
        task = asyncio.ensure_future(begin(count))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        count += 1
    if tasks:
        await asyncio.wait(tasks)


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def main(addresses: list[str]) -> None:
    until = asyncio.Event()
    # All of stdin is its end: who holds the other side says nothing.
    asyncio.get_running_loop().add_reader(sys.stdin, until.set)
    client = Client(addresses)
    print("ready", flush=True)
    await client.run(until)
    puts = [(put.number, put.called, put.answered, put.revision, put.why) for put in client.puts]
    reads = [(one.number, one.called, one.answered, one.revision, one.found) for one in client.reads]
    json.dump({"puts": puts, "reads": reads}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
