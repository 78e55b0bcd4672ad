"""Stopping the leader: the longest time between two writes that are acknowledged."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from contextlib import suppress

from bench_parts.figures import Bound, Row
from bench_parts.measure import FORM_BOUND_SECONDS, all_healthy_voters, must, pairs, progress
from bench_parts.peers import Options

RATIO = 1.0
LONG_MS = 200


def measure(options: Options) -> list[Row]:
    from lab.ec2 import Ec2
    from lab.node import Lab, static_list_arguments

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
        # More than elsewhere: whether a put in flight is lost is chance.
        ours, others = pairs(
            options.pairs + options.pairs // 2, lambda: _gap(lab, nodes, lambda node: node.start()), lambda: _gap(bare, plain, restart)
        )
    title = "stopping the leader: longest gap between two writes"
    long = [sum(gap > LONG_MS for gap in side) for side in (ours, others)]
    note = f"longer than {LONG_MS} ms, which is when a put in flight was lost: ours {long[0]} of {len(ours)}, etcd itself {long[1]}"
    return [Row("stopping/gap", title, "ms", "SIGTERM to etcd itself", ours, others, Bound(ratio=RATIO), note=note, headline=True)]


def _gap(lab, nodes, start_again) -> float:
    """Milliseconds, seen by one client of a follower."""
    from lab.etcd import NOT_YET

    leader = lab.wait(lambda: next((n for n in nodes if n.etcd.is_leader()), None), FORM_BOUND_SECONDS, "a leader")
    follower = next(node for node in nodes if node is not leader)
    acknowledged, done = [], threading.Event()

    def keep_writing() -> None:
        while not done.is_set():
            with suppress(*NOT_YET, http.client.HTTPException):
                follower.etcd.put("bench", "value")
                acknowledged.append(time.monotonic())

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        lab.wait(lambda: len(acknowledged) > 50, FORM_BOUND_SECONDS, "writes before the stop")
        before = len(acknowledged)
        leader.kill(signal.SIGTERM)
        leader.wait_exit(FORM_BOUND_SECONDS)
        lab.wait(lambda: len(acknowledged) > before + 100, FORM_BOUND_SECONDS, "writes after the stop")
    finally:
        done.set()
        writer.join()
    start_again(leader)
    must(lambda: all_healthy_voters(nodes), "the stopped one back")
    return max(b - a for a, b in zip(acknowledged[before - 1 :], acknowledged[before:])) * 1000
