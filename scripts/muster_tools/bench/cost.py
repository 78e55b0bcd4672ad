"""Cost on etcd: puts to one member that is supervised, and to the same etcd that isn't; and how far two of the latter are apart."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from contextlib import contextmanager

from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import Failed, all_healthy_voters, must, pairs, progress
from muster_tools.bench.peers import Options

PAIRS = 40  # a difference as small as the noise needs more than the others
SEQUENTIAL_PUTS = 400
CLIENTS, PUTS_EACH = 8, 250
BODY = b'{"key":"YmVuY2g=","value":"' + b"A" * 344 + b'"}'  # 256 bytes
BOUND_SECONDS = 30


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2

    progress("cost on etcd")
    with Ec2() as cloud:
        supervised, bare, again = pairs(
            max(PAIRS, options.pairs),
            lambda: _through(lambda: _supervised(cloud, options)),
            lambda: _through(lambda: _bare(cloud, options)),
            lambda: _through(lambda: _bare(cloud, options)),
        )
    rows = []
    for which, (title, unit, rate) in enumerate(
        ((f"a put, median of {SEQUENTIAL_PUTS} in a row", "ms", False), (f"puts a second by {CLIENTS} clients", "/s", True))
    ):
        ours, one, two = ([side[which] for side in sides] for sides in (supervised, bare, again))
        noise = Row("", "", unit, "", two, one, rate=rate)
        low, high = noise.interval()
        band = [min(low, 1 / high), max(high, 1 / low)]  # either of the two might have been called ours
        key, name = ("latency", "throughput")[which], "the same etcd unsupervised"
        note = f"the bound is the 95 % interval of the median of as many pairs of unsupervised ones ({noise.pairs_spread()}), either way round"
        rows.append(Row(f"cost/{key}", f"cost on etcd: {title}", unit, name, ours, one, Bound(within=band), rate, note, headline=True))
    return rows


@contextmanager
def _supervised(cloud, options: Options):
    from muster_tools.lab.node import Lab

    env = {"MUSTER_CLUSTER_SIZE": "1", "MUSTER_MIN_NODES": "1"}
    with Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env=env) as lab:
        node = lab.add_node()
        node.start()
        yield node


@contextmanager
def _bare(cloud, options: Options):
    from muster_tools.lab.node import Lab, static_list_arguments

    with Lab(etcd=options.etcd, shared_ec2=cloud) as lab:
        node = lab.add_node(launch=False)
        node.start_plain_etcd(static_list_arguments(node, [node]))
        yield node


def _through(make) -> tuple[float, float]:
    """The median put in milliseconds, and puts a second."""
    with make() as node:
        must(lambda: all_healthy_voters([node]), "one voter")
        with _connection(node) as put:
            for _ in range(50):
                put()
            one = statistics.median(_timed(put) for _ in range(SEQUENTIAL_PUTS))
        began, failures = threading.Barrier(CLIENTS + 1), []
        clients = [threading.Thread(target=_client, args=(node, began, failures)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        began.wait(BOUND_SECONDS)
        at = time.monotonic()
        for client in clients:
            client.join(BOUND_SECONDS)
        took = time.monotonic() - at
        if failures or any(client.is_alive() for client in clients):
            raise Failed(f"a put failed: {failures[:1]}")
        return one * 1000, CLIENTS * PUTS_EACH / took


def _timed(put) -> float:
    began = time.monotonic()
    put()
    return time.monotonic() - began


def _client(node, began: threading.Barrier, failures: list) -> None:
    try:
        with _connection(node) as put:
            began.wait(BOUND_SECONDS)
            for _ in range(PUTS_EACH):
                put()
    except (OSError, Failed, threading.BrokenBarrierError) as error:
        failures.append(error)


@contextmanager
def _connection(node):
    """A put on a connection that is kept, with next to no work on this side."""
    from muster_tools.lab.etcd import CLIENT_PORT

    head = f"POST /v3/kv/put HTTP/1.1\r\nHost: {node.address}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    request = head.encode() + BODY
    with socket.create_connection((node.address, CLIENT_PORT), BOUND_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def put() -> None:
            connection.sendall(request)
            answer = connection.recv(65536)
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                more = connection.recv(65536)
                if not more:
                    break
                answer += more
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Failed(answer[:80].decode(errors="replace"))

        yield put
