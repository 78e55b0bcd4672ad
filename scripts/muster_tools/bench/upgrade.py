"""Upgrading: three members to the next release, one after another, while a client of all three puts 500 times a second.

By hand: the same three as plain etcds with the settings that ours passes, stopped by SIGTERM to etcd, in the same order, the next one by
the same criterion. On both sides the first to be stopped leads.
"""

from __future__ import annotations

import base64
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muster_tools.bench import client, history
from muster_tools.bench.figures import Bound, Row, spread
from muster_tools.bench.measure import Failed, all_healthy_voters, must, pairs, progress
from muster_tools.bench.peers import Options
from muster_tools.lab import install

GAP_RATIO = 1.2
READY_BOUND_SECONDS = 120  # what a release's records need before the next may be one restart of each member, in turn
STEP_BOUND_SECONDS = 60  # until the cluster's version follows
CALM_SECONDS = 1  # of puts before the first is stopped, and after the version has followed
PAGE = 2000
BY_HAND = "by hand: stop, swap, start, in the same order"
SHOWN = 3  # of what is not linearizable


def steps() -> list[tuple[str, str]]:
    """From each release to the next: upstream's way, by the newest that the lab has of each minor."""
    way = [install.DEBIAN_ETCD, *(install.newest(f"{minor}.") for minor in ("3.5", "3.6", "3.7"))]
    return list(zip(way, way[1:]))


def needed(quick: bool) -> list[str]:
    """The releases that are run."""
    return list(dict.fromkeys(release for step in _chosen(quick) for release in step))


def _chosen(quick: bool) -> list[tuple[str, str]]:
    """In a quick run the step after which etcd itself must do most: 3.6 reads what the members of 3.5 left."""
    return [step for step in steps() if not quick or step[1].startswith("3.6.")]


@dataclass
class Seen:
    """Of one upgrade."""

    gap: float  # ms, the longest between two acknowledged writes
    calm: float  # ms, the same before anything was stopped
    failed: int  # writes: refused, broken off, or not acknowledged in time
    writes: int
    rate: float  # of them a second
    took: float  # seconds, until the last was healthy
    why: Counter[str]  # they failed
    broken: list[str]  # acknowledged and lost, or not linearizable


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2

    chosen = _chosen(options.quick)
    missing = [release for release in needed(options.quick) if not install.etcd_binaries(release).is_dir()]
    if missing:
        told = f"upgrade: not measured, etcd {', '.join(missing)} can't be had here"
        if not options.quick:
            raise Failed(told)
        progress(told)
        return []
    rows, broken = [], ([], [])
    with Ec2() as cloud:
        for old, new in chosen:
            progress(f"upgrade {old} to {new}")
            sides = pairs(
                1 if options.quick else options.pairs,
                lambda: by_supervisors(cloud, old, new, options),
                lambda: _by_hand(cloud, old, new),
            )
            for name, side in zip(("ours", "by hand"), sides):
                lost, writes = sum(len(one.broken) for one in side), sum(one.writes for one in side)
                progress(f"upgrade {old} to {new}, {name}: {lost} of {writes:,} writes lost or answers stale, {_sum(side)} writes failed")
            for all_of_side, side in zip(broken, sides):
                all_of_side += [one.broken for one in side]
            rows += _rows(old, new, *sides)
    ours, by_hand = ([len(lines) for lines in side] for side in broken)
    for line in [line for lines in broken[0] for line in lines][:SHOWN]:
        progress(f"not linearizable: {line}")
    if options.quick:  # one pair of times on a busy machine says nothing
        if sum(ours):
            raise Failed(f"upgrade: {sum(ours)} acknowledged writes lost or answers stale")
        return []
    title = "upgrade: acknowledged writes lost, answers stale"
    note = f"in {len(ours)} upgrades each; every put has a key of its own, and is read through each member in the end"
    return [*rows, Row("upgrade/lost", title, "", BY_HAND, [sum(ours)], [sum(by_hand)], Bound(ours=0), note=note, headline=True)]


def _rows(old: str, new: str, ours: list[Seen], by_hand: list[Seen]) -> list[Row]:
    of = lambda what: ([float(getattr(one, what)) for one in side] for side in (ours, by_hand))
    key, title = new.rpartition(".")[0], f"upgrade {old} to {new}"
    both = [*ours, *by_hand]
    calm = f"with nothing stopped {spread([one.calm for one in both], 'ms')}; {spread([one.rate for one in both], 'puts a second')}"
    each = round(statistics.mean(one.writes for one in both))
    writes = f"of some {each:,} in each upgrade; in all {_sum(ours)}: {_why(ours)}; by hand {_sum(by_hand)}: {_why(by_hand)}"
    return [
        Row(f"upgrade/gap-{key}", f"{title}: longest gap between writes", "ms", BY_HAND, *of("gap"), Bound(ratio=GAP_RATIO), note=calm, headline=True),
        Row(f"upgrade/failed-{key}", f"{title}: writes failed", "", BY_HAND, *of("failed"), Bound(excess=0), note=writes, headline=True),
        Row(f"upgrade/took-{key}", f"{title}: until the last is healthy", "s", BY_HAND, *of("took")),
    ]


def _sum(side: list[Seen]) -> int:
    return sum(one.failed for one in side)


def _why(side: list[Seen]) -> str:
    """The most frequent answers to writes that failed."""
    reasons = sum((one.why for one in side), Counter())
    return ", ".join(f"{count} \"{words}\"" for words, count in reasons.most_common(SHOWN)) or "none"


def by_supervisors(cloud, old: str, new: str, options: Options) -> Seen:
    from muster_tools.lab.node import Lab

    with Lab(etcd=old, muster=options.binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": "3"}) as lab:
        nodes = [lab.add_node() for _ in range(3)]
        for node in nodes:
            node.start()
        must(lambda: all_healthy_voters(nodes), "three voters")
        for node in nodes:
            must(lambda: _says_go(node, options, new), f"{node.address} ready for {new}", READY_BOUND_SECONDS)
        return _roll(lab, nodes, new, lambda node: node.start())


def _says_go(node, options: Options, new: str) -> bool:
    check = [str(options.binary), "upgrade", "--check", new]
    return subprocess.run(check, env=node.environment(), cwd=node.directory, capture_output=True).returncode == 0


def _by_hand(cloud, old: str, new: str) -> Seen:
    from muster_tools.lab.node import Lab, static_list_arguments

    with Lab(etcd=old, shared_ec2=cloud) as lab:
        nodes = [lab.add_node(launch=False) for _ in range(3)]

        def start(node) -> None:
            node.env = settings(new if node.program.samefile(_program(new)) else old)
            node.start_plain_etcd(static_list_arguments(node, nodes))

        for node in nodes:
            start(node)
        must(lambda: all_healthy_voters(nodes), "three voters by hand")
        return _roll(lab, nodes, new, start)


def settings(release: str) -> dict[str, str]:
    """What src/etcd/command.rs sets beyond places and addresses."""
    at_least_3_6 = install.number(release) >= [3, 6]
    check = {"ETCD_FEATURE_GATES": "InitialCorruptCheck=true"} if at_least_3_6 else {"ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK": "true"}
    return {"ETCD_LOGGER": "zap", "ETCD_LOG_OUTPUTS": "stderr", "ETCD_PRE_VOTE": "true", **check}


def _program(release: str) -> Path:
    return install.etcd_binaries(release) / "etcd"


def _roll(lab, nodes, new: str, start: Callable[[object], None]) -> Seen:
    from muster_tools.lab.moments import longest_gap

    _lead(lab, nodes)
    with client.Running(node.address for node in nodes) as running:
        time.sleep(CALM_SECONDS)
        began = time.monotonic()
        for node in nodes:
            node.install_etcd(_program(new))
            node.kill(signal.SIGTERM)
            node.wait_exit(STEP_BOUND_SECONDS)
            start(node)
            lab.wait(lambda: all_healthy_voters(nodes), STEP_BOUND_SECONDS, f"{node.address} healthy on {new}")
        took = time.monotonic() - began
        minor = f"{new.rpartition('.')[0]}."
        followed = lambda: all(node.etcd.peer_version()["etcdcluster"].startswith(minor) for node in nodes)
        lab.wait(followed, STEP_BOUND_SECONDS, f"a cluster of version {minor}x")
        time.sleep(CALM_SECONDS)
        told = running.stop()
    moments = [put.answered for put in told.acknowledged()]
    broken = [line for node in nodes for line in history.violations(told, stored(node))]
    return Seen(
        gap=longest_gap(moments, began) * 1000,
        calm=longest_gap(moment for moment in moments if moment <= began) * 1000,
        failed=len(told.puts) - len(moments),
        writes=len(told.puts),
        rate=(len(told.puts) - 1) / (told.puts[-1].called - told.puts[0].called),
        took=took,
        why=Counter(put.why for put in told.puts if put.revision is None),
        broken=list(dict.fromkeys(broken)),
    )


def _lead(lab, nodes) -> None:
    """The first one, so that in every upgrade the leader is stopped at least twice: whoever it hands over to is stopped later."""
    first = nodes[0].etcd.member_id()

    def leads() -> bool:
        if nodes[0].etcd.is_leader():
            return True
        leader = next(node for node in nodes if node.etcd.is_leader())
        leader.etcd.post("/v3/maintenance/transfer-leadership", {"targetID": str(int(first, 16))})
        return False

    lab.wait(leads, STEP_BOUND_SECONDS, "the first one leading")


def stored(node) -> dict[int, int]:
    """Every put that is there, with its revision, by a read through the quorum."""
    encode = lambda text: base64.b64encode(text).decode()
    found: dict[int, int] = {}
    start, end = client.PREFIX.encode(), client.PREFIX.encode()[:-1] + b"0"  # the byte after the slash
    while True:
        answer = node.etcd.post("/v3/kv/range", {"key": encode(start), "range_end": encode(end), "limit": PAGE})
        for kv in answer.get("kvs", []):
            key, value = (base64.b64decode(kv[part]) for part in ("key", "value"))
            if key == client.PREFIX.encode() + value:  # else it is another's value: as good as lost
                found[int(value)] = int(kv["mod_revision"])
            start = key + b"\0"
        if not answer.get("more"):
            return found
