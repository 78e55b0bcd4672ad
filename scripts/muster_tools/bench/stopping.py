"""Stopping the leader: the longest time in which no write is acknowledged, and how many writes it holds up.

Writes are begun at a steady rate, whatever became of those before: a client that waits for each would tell of its own patience
whenever the one in flight was lost.
"""

from __future__ import annotations

import http.client
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from muster_tools.bench.figures import Bound, Row, spread
from muster_tools.bench.measure import FORM_BOUND_SECONDS, all_healthy_voters, must, pairs, progress
from muster_tools.bench.peers import Options

RATIO = 1.0
PAIRS_FOR_EACH = 6  # of the others: both sides do the same but for whose word moves the leader, and what is lost is rare
EVERY_SECONDS = 0.005
LATE_SECONDS = 0.2
WATCHED_SECONDS = 1.0  # from the signal on, however long the stop takes
PATIENCE_SECONDS = 2  # of the lab's client
WRITES_BEFORE = 50


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab, static_list_arguments

    progress("stopping the leader")
    size = {"MUSTER_CLUSTER_SIZE": "3"}
    with Ec2() as cloud, Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env=size) as lab, Lab(etcd=options.etcd) as bare:
        nodes = [lab.add_node() for _ in range(3)]
        plain = [bare.add_node(launch=False) for _ in range(3)]
        restart = lambda node: node.start_plain_etcd(static_list_arguments(node, plain))
        for node in nodes:
            node.start()
        for node in plain:
            restart(node)
        for group in (nodes, plain):
            must(lambda: all_healthy_voters(group), "three voters")
        times = PAIRS_FOR_EACH * options.pairs
        ours, others, calm = pairs(
            times,
            lambda: stop(lab, nodes, lambda node: node.start()),
            lambda: stop(bare, plain, restart),
            lambda: stop(bare, plain, None),
        )
    title = "stopping the leader: longest gap between two writes"
    gaps, late = ([[seen[which] for seen in side] for side in (ours, others, calm)] for which in (0, 1))
    etcd, every = "SIGTERM to etcd itself", f"a write begun every {EVERY_SECONDS * 1000:g} ms by clients of a follower"
    note = f"{every}, watched for {WATCHED_SECONDS:g} s; with nothing stopped {spread(gaps[2], 'ms')}, {sum(late[2])} of them late"
    lost, more = f"stopping the leader: writes refused, lost or later than {LATE_SECONDS * 1000:g} ms", f"of some {times * WATCHED_SECONDS / EVERY_SECONDS:,.0f}"
    return [
        Row("stopping/gap", title, "ms", etcd, *gaps[:2], Bound(ratio=RATIO), note=note, headline=True),
        Row("stopping/late", f"{lost}, in {times} stops", "", etcd, [sum(late[0])], [sum(late[1])], note=more, headline=True),
    ]


def stop(lab, nodes, start_again) -> tuple[float, int]:
    """Milliseconds of the gap, and how many writes were late or never acknowledged. Nothing is stopped without `start_again`."""
    from muster_tools.lab.moments import longest_gap

    leader = lab.wait(lambda: next((n for n in nodes if n.etcd.is_leader()), None), FORM_BOUND_SECONDS, "a leader")
    follower = next(node for node in nodes if node is not leader)
    with Writers(follower) as writers:
        lab.wait(lambda: len(writers.acknowledged) > WRITES_BEFORE, FORM_BOUND_SECONDS, "writes before the stop")
        time.sleep(random.uniform(0, EVERY_SECONDS))  # at any point between two writes: the wait above ends with one of them
        began = time.monotonic()
        if start_again is not None:
            leader.kill(signal.SIGTERM)
        time.sleep(WATCHED_SECONDS)
    if start_again is not None:
        leader.wait_exit(FORM_BOUND_SECONDS)
        start_again(leader)
        must(lambda: all_healthy_voters(nodes), "the stopped one back")
    watched = [moment for moment in writers.acknowledged if moment <= began + WATCHED_SECONDS]
    return longest_gap(watched, began) * 1000, len(writers.late)


class Writers:
    """Begin a write every few milliseconds, each on a thread and a connection of its own."""

    def __init__(self, node):
        self.acknowledged: list[float] = []
        self.late: list[float] = []  # when they were begun; those never acknowledged too
        self._node = node
        self._done = threading.Event()
        self._threads = ThreadPoolExecutor(round(PATIENCE_SECONDS / EVERY_SECONDS) + 10)
        self._clock = threading.Thread(target=self._begin_each)

    def __enter__(self) -> Writers:
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._clock.join()
        self._threads.shutdown()

    def _begin_each(self) -> None:
        due = time.monotonic()
        while not self._done.wait(max(due - time.monotonic(), 0)):
            self._threads.submit(self._write)
            due += EVERY_SECONDS

    def _write(self) -> None:
        from muster_tools.lab.etcd import NOT_YET

        began = time.monotonic()
        with suppress(*NOT_YET, http.client.HTTPException):
            self._node.etcd.put("bench", "value")
            now = time.monotonic()
            self.acknowledged.append(now)
            if now - began <= LATE_SECONDS:
                return
        self.late.append(began)
