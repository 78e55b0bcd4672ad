"""Forming, replacing and stopping on 3.6 and on 3.7 beside the newest 3.5, each as its own family measures it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from muster_tools.bench import forming, replacing, stopping
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import Failed, all_healthy_voters, must, pairs, progress
from muster_tools.bench.peers import Options
from muster_tools.lab import install

RATIO = 1.1
BASE, NEWER = "3.5.", ("3.6.", "3.7.")
ROUNDS_FOR_EACH = 3  # of the others, where one takes two seconds: raft's random timeouts are most of forming, single writes of stopping


def needed() -> list[str]:
    """The releases that are run, the one that the others are compared with first."""
    return [install.newest(series) for series in (BASE, *NEWER)]


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2

    releases = needed()
    missing = [release for release in releases if not install.etcd_binaries(release).is_dir()]
    if missing:
        raise Failed(f"releases: not measured, etcd {', '.join(missing)} can't be had here")
    of_each = [replace(options, etcd=release) for release in releases]
    rounds = ROUNDS_FOR_EACH * options.pairs
    with Ec2() as cloud:
        progress(f"forming 3 on {', '.join(releases)}")
        formed = pairs(rounds, *(partial(forming.by_supervisors, cloud, 3, one, together=True) for one in of_each))
        progress(f"replacing one of three on {', '.join(releases)}")
        replaced = pairs(options.pairs, *(partial(replacing.by_supervisor, cloud, one) for one in of_each))
    progress(f"stopping the leader on {', '.join(releases)}")
    stopped = _stopped(of_each, rounds)
    return [
        *_rows("forming", "forming 3", "s", releases, formed),
        *_rows("replacing", "replacing one of three", "s", releases, [[took for took, _ in side] for side in replaced]),
        *_rows("stopping", "stopping the leader, gap", "ms", releases, [[gap for gap, _ in side] for side in stopped]),
    ]


def _rows(key: str, title: str, unit: str, releases: list[str], sides: list[list[float]]) -> list[Row]:
    base, other = sides[0], f"on etcd {releases[0]}"
    of = lambda series, release, side: Row(
        f"releases/{key}-{series[:-1]}", f"{title}, on etcd {release}", unit, other, side, base, Bound(ratio=RATIO), headline=True
    )
    return [of(series, release, side) for series, release, side in zip(NEWER, releases[1:], sides[1:])]


def _stopped(of_each: list[Options], rounds: int) -> list[list[tuple[float, int]]]:
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab

    with ExitStack() as stack:
        contestants = []
        for options in of_each:
            cloud = stack.enter_context(Ec2())
            lab = stack.enter_context(Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": "3"}))
            nodes = [lab.add_node() for _ in range(3)]
            for node in nodes:
                node.start()
            must(partial(all_healthy_voters, nodes), "three voters")
            contestants.append(partial(stopping.stop, lab, nodes, lambda node: node.start()))
        return pairs(rounds, *contestants)
