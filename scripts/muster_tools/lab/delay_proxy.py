"""Delays between a host's processes and its peers: the kernel here has no netem, so a proxy holds back what passes.

A delayed piece arrives even when its sender has given up meanwhile, as a packet on its way does.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from contextlib import suppress

from muster_tools.lab.netns import Host, Undo

PIECE_BYTES = 65536
MARK = 77  # on the proxy's own connections, which must not come back to it
SO_ORIGINAL_DST = 80  # of linux/netfilter_ipv4.h


class DelayProxy:
    """For one host and one port of its peers; outlives its delays, so that no connection breaks when they end."""

    def __init__(self, host: Host, port: int):
        self._host = host
        self._peers_port = port
        self._delays: list[float] = []
        self._own_port = 0
        self._carrying: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None  # made in the loop, which it belongs to
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> DelayProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def delay(self, most: float) -> Undo:
        """Every piece on a connection made from now on takes up to so many seconds, each way."""
        self._delays.append(most)
        straight = self._host.diverted(self._peers_port, self._own_port, MARK)

        def heal() -> None:
            straight()
            self._delays.remove(most)

        return heal

    def _run(self) -> None:
        self._host.enter_thread()
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self._own_port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        while carrying := asyncio.all_tasks() - {asyncio.current_task()}:  # one may just have been accepted
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._carrying.add(task)  # asyncio refers to it weakly once the caller is gone, and what is late must still arrive
        try:
            with suppress(asyncio.CancelledError):  # the proxy ends; asyncio would call that an error
                await self._connect_and_pump(reader, writer)
        finally:
            self._carrying.discard(task)

    async def _connect_and_pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target = _original_destination(writer.get_extra_info("socket"))
            await self._hold_back()
            far_reader, far_writer = await _connect(target)
        except OSError:
            writer.close()  # too late to refuse: the caller is connected already
            return
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # either end may vanish; the other direction goes on
            while piece := await source.read(PIECE_BYTES):
                await self._hold_back()
                sink.write(piece)
                await sink.drain()
        await self._hold_back()
        with suppress(OSError):
            sink.write_eof()

    async def _hold_back(self) -> None:
        await asyncio.sleep(random.uniform(0, max(self._delays, default=0)))


async def _connect(target: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        await asyncio.get_running_loop().sock_connect(connection, target)
    except BaseException:
        connection.close()
        raise
    return await asyncio.open_connection(sock=connection)


def _original_destination(connection: socket.socket) -> tuple[str, int]:
    """Where the caller wanted to go before the redirection: a struct sockaddr_in."""
    port, address = struct.unpack("!2xH4s8x", connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return socket.inet_ntoa(address), port
