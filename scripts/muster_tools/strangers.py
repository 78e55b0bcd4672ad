"""A fresh node waits for two others, beside a crowd or alone, in turn; then the others start. What the crowd costs: memory, calls to EC2,
and how much longer the founding takes."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from muster_tools import command
from muster_tools.lab import install
from muster_tools.repository import DOCS, ROOT

if TYPE_CHECKING:
    from muster_tools.lab.crowd import Crowd
    from muster_tools.lab.node import Lab, Node

DOCUMENT = DOCS / "strangers.md"
IDLE, REQUESTS = 2000, 200
WATCHED_SECONDS, WINDOW_SECONDS = 15, 5
BOUND = 60
MEMORY_BOUND_MIB, CALLS_BOUND, FOUNDING_BOUND = 8, 1, 1.5


def resident_mib(node: Node) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{node.process.pid}/status").read_text())[1]) / 1024


def most_in_a_window(moments: list[float]) -> int:
    return max((sum(begin <= other < begin + WINDOW_SECONDS for other in moments) for begin in moments), default=0)


def watched(lab: Lab, crowd: Crowd | None) -> dict[str, float]:
    """One run: a node that waits is watched, then two others start."""
    nodes = [lab.add_node() for _ in range(3)]
    waiting, *late = nodes
    waiting.start()
    lab.wait(lambda: "did not answer" in waiting.log_text(), BOUND, "a node that waits")
    before = most = resident_mib(waiting)
    if crowd is not None:
        crowd.__enter__()
    try:
        began = time.time()
        while time.time() < began + WATCHED_SECONDS:
            most = max(most, resident_mib(waiting))
            time.sleep(0.1)
        calls = [at for at, _ in waiting.front.answered if at >= began]
        started = time.monotonic()
        for node in late:
            node.start()
        healthy = lambda: all(node.etcd.health() for node in nodes)
        lab.wait(healthy, BOUND, "three healthy members")
        founding = time.monotonic() - started
        most = max(most, resident_mib(waiting))
        (cluster,) = {node.etcd.cluster_id() for node in nodes}
        assert cluster
    finally:
        if crowd is not None:
            crowd.__exit__()
    return {"more": most - before, "calls": most_in_a_window(calls), "founding": founding}


def measure(pairs: int, binary: Path, etcd: str) -> tuple[list[dict[str, float]], list[dict[str, float]], list[dict[str, float]]]:
    from muster_tools.lab.crowd import Crowd
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab

    alone, beside, met = [], [], []
    env = {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_BOOTSTRAP_GRACE": "10m"}
    with Ec2() as cloud:
        for number in range(2 * pairs):
            with Lab(etcd=etcd, muster=binary, env=env, shared_ec2=cloud) as lab:
                # Each pair begins with another, so that a machine that gets slower slows both.
                if number % 4 in (1, 2):
                    crowd = Crowd((f"{lab.network}.11", 2380), f"{lab.network}.250", IDLE, REQUESTS)
                    beside.append(watched(lab, crowd))
                    met.append(crowd.met)
                    print("beside", beside[-1], met[-1], file=sys.stderr, flush=True)
                else:
                    alone.append(watched(lab, None))
                    print("alone ", alone[-1], file=sys.stderr, flush=True)
    return alone, beside, met


def report(pairs: int, etcd: str, binary: Path, alone: list, beside: list, met: list) -> tuple[str, bool]:
    def of(runs: list, what: str, pick=statistics.median) -> float:
        return pick(run[what] for run in runs)

    more = of(beside, "more", max)
    extra = of(beside, "calls", max) - of(alone, "calls", max)
    ratio = statistics.median(b["founding"] / a["founding"] for a, b in zip(alone, beside))
    good = more <= MEMORY_BOUND_MIB and extra <= CALLS_BOUND and ratio <= FOUNDING_BOUND
    verdict = lambda held: "reached" if held else "**missed**"
    answered, unanswered = (sum(one[what] for one in met) for what in ("answered", "unanswered"))
    built = binary.resolve().relative_to(ROOT) if binary.resolve().is_relative_to(ROOT) else binary.name
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {'.'.join(platform.release().split('.')[:2])}, etcd {etcd}; {built}; load {os.getloadavg()[0]:.0f}"
    return (
        f"""# Strangers at the peer port

Written by `scripts/strangers --pairs {pairs} --write` on {datetime.date.today().isoformat()} ({machine}). A fresh node of three waits for the two
others, for {WATCHED_SECONDS} s, alone or beside a crowd, in turn; then the others start. The crowd is one address: {IDLE:,} idle connections,
reopened as they are closed (at most 400 a second), and {REQUESTS} requests a second, each under a new name. Crowd, nodes and
their EC2 share these cores.

| figure | alone | beside the crowd | | bound |
|---|---|---|---|---|
| growth of resident memory, worst run | {of(alone, "more", max):.2f} MiB | {more:.2f} MiB | | ≤ {MEMORY_BOUND_MIB} MiB: {verdict(more <= MEMORY_BOUND_MIB)} |
| calls to EC2, the most in {WINDOW_SECONDS} s, worst run | {of(alone, "calls", max)} | {of(beside, "calls", max)} | {extra:+} | ≤ {CALLS_BOUND} more: {verdict(extra <= CALLS_BOUND)} |
| bootstrap: two start, three are healthy, median of {pairs} | {of(alone, "founding"):.2f} s | {of(beside, "founding"):.2f} s | {ratio:.2f} times (median of pairs) | ≤ {FOUNDING_BOUND} times: {verdict(ratio <= FOUNDING_BOUND)} |

Of the crowd's own requests {answered:,} were answered (after {statistics.median(one["median_ms"] for one in met):.1f} ms, median; {max(one["worst_ms"] for one in met):.0f} ms at most) and {unanswered:,} were not:
closed as the oldest of that address, or sent when etcd already had the port. {sum(one["renewed"] for one in met):,} connections were replaced or timed out and were reopened.
""",
        good,
    )


def main() -> int:
    parser = command.parser("strangers", __doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/strangers.md")
    command.add_etcd(parser)
    command.add_binary(parser)
    asked = parser.parse_args()
    install.go_on_in_the_venv(asked.etcd)
    binary = command.executable(asked)
    runs = measure(asked.pairs, binary, asked.etcd)
    text, good = report(asked.pairs, asked.etcd, binary, *runs)
    print(text)
    if asked.write:
        DOCUMENT.write_text(text)
    return 0 if good else 1
