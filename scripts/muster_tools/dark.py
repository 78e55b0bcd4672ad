"""Replacing a member whose host is dark: from the new one's start to its vote, beside a terminated host that answers nothing and beside one
that refuses, with the default probe timeout of 3 s. Needs root, for the network namespaces in which a host can be dark.

    scripts/dark                                    # etcd 3.5.1, dwell times of 5 and 15 s, 5 joins of each kind; some five minutes
    scripts/dark --beside OLD_ETCD_MUSTER --times 3 # with an older executable in turn
    scripts/dark --write                            # to docs/dark.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from datetime import date
from pathlib import Path

from muster_tools import command
from muster_tools.lab import install
from muster_tools.repository import DOCS

PAGE = DOCS / "dark.md"
PROBE = "3s"  # the default
MARGIN_SECONDS = 2
BOUND_SECONDS = 120


def main() -> int:
    parser = command.parser("dark", __doc__)
    command.add_etcd(parser)
    parser.add_argument("--dwell", type=int, action="append", help="MUSTER_REMOVE_AFTER in seconds; default: 5 and 15; repeatable")
    parser.add_argument("--times", type=int, default=5, help="joins of each kind; default: %(default)s")
    command.add_binary(parser)
    command.add_beside(parser)
    parser.add_argument("--write", action="store_true", help="put the table into docs/dark.md")
    options = parser.parse_args()
    install.go_on_in_the_venv(options.etcd)
    binaries = {"this one": command.executable(options), **({"the older one": options.beside} if options.beside else {})}

    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.netns import Hub, why_not

    if trouble := why_not():
        raise SystemExit(f"dark: {trouble}")
    hub = Hub().enter()  # before there are threads
    rows = ["| executable | MUSTER_REMOVE_AFTER | beside a host that refuses | beside a dark host | dark, over the dwell time | bound |", "|---|---|---|---|---|---|"]
    with Ec2() as cloud:
        for dwell in options.dwell or [5, 15]:
            seen = {(name, dark): [] for name in binaries for dark in (False, True)}
            for _ in range(options.times):
                for (name, dark), joins in seen.items():
                    joins.append(join(cloud, hub, options.etcd, binaries[name], dwell, dark))
            for name in binaries:
                dead, dark = seen[name, False], seen[name, True]
                over = max(dark) - dwell
                verdict = "reached" if over <= MARGIN_SECONDS else "missed"
                bound = f"≤ {MARGIN_SECONDS} s: {verdict}" if name == "this one" else ""
                rows.append(f"| {name} | {dwell} s | {shown(dead)} | {shown(dark)} | {over:+.2f} s at most | {bound} |")
                print(rows[-1], flush=True)
    text = page(options, rows)
    print(f"\n{text}")
    if options.write:
        PAGE.write_text(text)
    return 0


def join(cloud, hub, etcd: str, binary: Path, dwell: int, dark: bool) -> float:
    """Seconds from the start of a replacement to its vote. The terminated host's address goes on being routed, or refuses."""
    from muster_tools.lab.node import Lab

    # By its former name: an older executable knows no other.
    env = {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_CLEAN_DWELL": f"{dwell}s", "MUSTER_PROBE_TIMEOUT": PROBE}
    with Lab(etcd=etcd, muster=binary, shared_ec2=cloud, env=env, hub=hub) as lab:
        nodes = [lab.add_node() for _ in range(3)]
        for node in nodes:
            node.start()
        lab.wait(lambda: all(node.etcd.health() and voters(node) == 3 for node in nodes), BOUND_SECONDS, "three voters")
        old = next(node for node in nodes if not node.etcd.is_leader())
        rest = [node for node in nodes if node is not old]
        if dark:
            old.host.dark()
        lab.terminate(old)
        new = lab.add_node()
        began = time.monotonic()
        new.start()
        lab.wait(lambda: new.etcd.health() and voters(new) == 3 and voters(rest[0]) == 3, BOUND_SECONDS, "the replacement's vote")
        return time.monotonic() - began


def voters(node) -> int:
    return sum(not member.learner and bool(member.name) for member in node.etcd.members())


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def page(options: argparse.Namespace, rows: list[str]) -> str:
    table = "\n".join(rows)
    return f"""# Joining beside a dark host

Made by `scripts/dark{f" --times {options.times}" if options.times != 5 else ""} --write` on {date.today()} ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, etcd {options.etcd}, {options.times} joins of each kind). One of
three is terminated, and a new instance replaces it. The old address refuses connections, like a host without etcd, or does not answer, like a
machine that is off. Seconds from the new supervisor's start until it is a voter: the median (least to most). The dead member may be removed only
once it has not answered for MUSTER_REMOVE_AFTER, so that is the minimum; the probe timeout is {PROBE}, the default.

{table}

A dark host would cost each observation the whole probe timeout. So it is probed beside the observations, one probe at a time, and the last result counts.
"""
