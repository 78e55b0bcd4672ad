"""Supervisors of this state and of an older one in one cluster, both ways: each founds with the other, and each replaces a member among the
others.

    scripts/together --beside OLD_ETCD_MUSTER           # etcd 3.5.1; a minute
"""

from __future__ import annotations

import time
from pathlib import Path

from muster_tools import command
from muster_tools.lab import install

BOUND_SECONDS = 120


def main() -> int:
    parser = command.parser("together", __doc__)
    command.add_beside(parser, required=True)
    command.add_etcd(parser)
    command.add_binary(parser)
    options = parser.parse_args()
    install.go_on_in_the_venv(options.etcd)
    new, old = command.executable(options), options.beside

    from muster_tools.lab.ec2 import Ec2

    mixes = {"old, new, new": (old, new, new), "new, old, old": (new, old, old), "old, old, new": (old, old, new), "new, new, old": (new, new, old)}
    with Ec2() as cloud:
        for name, binaries in mixes.items():
            for joiner, of in ((new, "a new one"), (old, "an old one")):
                founded, replaced = life(cloud, options.etcd, binaries, joiner)
                print(f"{name}, by rank: founded in {founded:.1f} s; {of} replaced the last: {replaced:.1f} s", flush=True)
    return 0


def life(cloud, etcd: str, binaries: tuple[Path, ...], joiner: Path) -> tuple[float, float]:
    """Seconds until three by these executables are one cluster, and until one more has replaced the last of them."""
    from datetime import timedelta

    from muster_tools.lab.ec2_faults import launched
    from muster_tools.lab.node import Lab

    # By its former name: an older executable knows no other.
    env = {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_CLEAN_DWELL": "1s"}
    with Lab(etcd=etcd, muster=binaries[0], shared_ec2=cloud, env=env) as lab:
        nodes = []
        for binary in binaries:
            lab.muster = binary
            nodes.append(lab.add_node())
        for rank, node in enumerate(nodes):
            lab.fault_ec2(launched(timedelta(seconds=120 - rank), node.instance.id))
        began = time.monotonic()
        for node in nodes:
            node.start()
        lab.wait(lambda: is_one(nodes), BOUND_SECONDS, "one cluster of three")
        founded = time.monotonic() - began
        *rest, last = nodes
        lab.terminate(last)
        lab.muster = joiner
        heir = lab.add_node()
        began = time.monotonic()
        heir.start()
        lab.wait(lambda: is_one([*rest, heir]), BOUND_SECONDS, "one cluster with the newcomer")
        return founded, time.monotonic() - began


def is_one(nodes) -> bool:
    ids = {node.etcd.cluster_id() for node in nodes if node.etcd.health()}
    listed = [sorted(url for member in node.etcd.members() if member.name and not member.learner for url in member.peer_urls) for node in nodes]
    return len(ids) == 1 and all(urls == sorted(node.peer_url for node in nodes) for urls in listed) and all(node.etcd.health() for node in nodes)
