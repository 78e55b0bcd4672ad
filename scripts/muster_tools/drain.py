"""Stop the leader of three while clients hold streams open on it, by the supervisor and by SIGTERM to etcd itself, and show what
clients see: how long the stop takes, and the longest time without an acknowledged write for a client that has all members in its list
and for one that has only the stopped one (which is started again as soon as it has ended).

    scripts/drain                       # 3.5.33 and 3.6.16; 0, 1 and 100 watches, and a silent connection; some minutes
    scripts/drain --etcd 3.7.3 --times 5
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from muster_tools import command
from muster_tools.lab import install

BOUND_SECONDS = 90
STOP_BOUND_SECONDS = 30  # etcd itself waits for a silent connection without end: it is killed then
PAUSE_SECONDS = 0.01
CASES = {"no client": (0, 0), "1 watch": (1, 0), "100 watches": (100, 0), "1 silent connection": (0, 1)}


def main() -> int:
    parser = command.parser("drain", __doc__)
    parser.add_argument("--etcd", action="append", choices=install.releases(), help="default: 3.5.33 and 3.6.16; repeatable")
    parser.add_argument("--times", type=int, default=3, help="stops of each kind; default: %(default)s")
    command.add_binary(parser)
    options = parser.parse_args()
    versions = options.etcd or ["3.5.33", "3.6.16"]
    for version in versions:
        install.go_on_in_the_venv(version)
    binary = command.executable(options)
    print("medians of", options.times, "stops, in seconds: until the end / longest gap with a list / with the stopped member only\n")
    print("| etcd | held open on the leader | etcd-muster | SIGTERM to etcd itself |\n|---|---|---|---|")
    for version in versions:
        for case, seen in measure(version, binary, options.times):
            print(f"| {version} | {case} | {' | '.join(seen)} |", flush=True)
    return 0


def measure(version: str, binary: Path, times: int):
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab, static_list_arguments

    with Ec2() as cloud, Lab(etcd=version, muster=binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": "3"}) as lab, Lab(etcd=version) as bare:
        ours = [lab.add_node() for _ in range(3)]
        plain = [bare.add_node(launch=False) for _ in range(3)]
        sides = [(lab, ours, lambda node: node.start()), (bare, plain, lambda node: node.start_plain_etcd(static_list_arguments(node, plain)))]
        for _, nodes, run in sides:
            for node in nodes:
                run(node)
        for case, (watches, silent) in CASES.items():
            seen = []
            for place, nodes, run in sides:
                stops = [stop(place, nodes, run, watches, silent) for _ in range(times)]
                middle = [f"{statistics.median(column):.2f}" for column in zip(*stops)]
                seen.append(" / ".join(middle))
            yield case, seen


def stop(lab, nodes, run, watches: int, silent: int) -> tuple[float, float, float]:
    from muster_tools.lab.watch import Watch

    lab.wait(lambda: all(node.etcd.health() and len(node.etcd.members()) == 3 for node in nodes), BOUND_SECONDS, "three members")
    leader = lab.wait(lambda: next((node for node in nodes if node.etcd.is_leader()), None), BOUND_SECONDS, "a leader")
    with ExitStack() as held:
        for _ in range(watches):
            held.enter_context(Watch(leader.etcd, "drain"))
        for _ in range(silent):
            held.enter_context(socket.create_connection((leader.address, leader.etcd.client_port)))
        listed = held.enter_context(Writer([leader, *(node for node in nodes if node is not leader)]))
        bound = held.enter_context(Writer([leader]))
        lab.wait(lambda: listed.count > 50 and bound.count > 50, BOUND_SECONDS, "writes before")
        began = time.monotonic()
        os.kill(leader.process.pid, signal.SIGTERM)
        while leader.process.exit_code() is None and time.monotonic() < began + STOP_BOUND_SECONDS:
            time.sleep(0.005)
        ended = time.monotonic()
        # As whoever runs it would do in the end.
        if leader.process.exit_code() is None:
            leader.power_off()
        run(leader)
        since = bound.count
        lab.wait(lambda: bound.count > since + 20, BOUND_SECONDS, "writes after")
    return ended - began, listed.longest, bound.longest


class Writer:
    """Write again and again through the first of its members that takes it, and remember the longest time without an answer."""

    def __init__(self, nodes):
        self.count, self.longest = 0, 0.0
        self._nodes = list(nodes)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _write(self) -> None:
        from muster_tools.lab.etcd import NOT_YET

        last = time.monotonic()
        while not self._done.wait(PAUSE_SECONDS):
            try:
                self._nodes[0].etcd.put("drain", "value")
            except NOT_YET:
                self._nodes.append(self._nodes.pop(0))
                continue
            now = time.monotonic()
            self.longest, self.count, last = max(self.longest, now - last), self.count + 1, now
