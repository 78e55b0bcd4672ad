"""How it grows: with the account, with the cluster, and with how many join at once. Ours alone; the shape is the figure."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from muster_tools.bench import discovery, peers
from muster_tools.bench.figures import Bound, Curve, Row
from muster_tools.bench.forming import by_supervisors
from muster_tools.bench.measure import all_healthy_voters, cost_of, must, pairs, progress
from muster_tools.bench.peers import Options

INSTANCES = (10, 100, 1_000, 10_000, 100_000)
SMALL = 100
MEMBERS = (3, 5, 7, 9)
JOINERS = (1, 2, 4, 10)
RUNS_OF_TEN_JOINERS = 3  # each takes a minute
FLAT_RATIO = 1.25  # resident at 100,000 instances to that at 1,000, which is the first full page
JOIN_BOUND_SECONDS = 180


def measure(options: Options) -> list[Row | Curve]:
    peers.need("/usr/bin/time")
    found: list[Row | Curve] = [*_instances(options)]
    from muster_tools.lab.ec2 import Ec2

    with Ec2() as cloud:
        forming = [_point(size, [by_supervisors(cloud, size, options) for _ in range(options.pairs)]) for size in _said("members", MEMBERS)]
        runs = lambda number: RUNS_OF_TEN_JOINERS if number == 10 else options.pairs
        joining = [_point(number, [_joining(cloud, number, options) for _ in range(runs(number))]) for number in _said("joiners", JOINERS)]
    why = "linear: one exchange with all at once, then each etcd in turn, on shared cores"
    found.append(Curve("growth/members", "forming", "members", "s", forming, why))
    why = f"linear: one learner at a time, every five seconds ({RUNS_OF_TEN_JOINERS} runs with ten)"
    found.append(Curve("growth/joiners", "joining three at once", "joiners", "s", joining, why))
    return found


def _said(what: str, sizes):
    for size in sizes:
        progress(f"growth, {size:,} {what}")
        yield size


def _instances(options: Options) -> list[Row | Curve]:
    from muster_tools.lab.replay import Replay

    command = [str(options.binary), "discover", "--json"]
    progress("growth, 10 to 100,000 instances")
    with ExitStack() as stack:
        given = [discovery.environment(stack.enter_context(Replay(instances=size)).url) for size in INSTANCES]
        # Times of small sizes without GNU time's own.
        timed = pairs(options.pairs, *(lambda g=g, s=s: cost_of(command, g, peak=s > SMALL) for g, s in zip(given, INSTANCES)))
        weighed = pairs(options.pairs, *(lambda g=g: cost_of(command, g, peak=True) for g, s in zip(given, INSTANCES) if s <= SMALL))
    seen = dict(zip(INSTANCES, timed))
    memory = {size: [c.peak for c in costs] for size, costs in zip(INSTANCES, [*weighed, *timed[len(weighed) :]])}
    curve = lambda what, unit, values, why: Curve(
        f"growth/{what}", f"discover --json: {what}", "instances", unit, [_point(s, of) for s, of in values.items()], why
    )
    title, other = "growth: discover --json, peak resident at 100,000 instances", "at 1,000 (one page)"
    return [
        Row("growth/flat", title, "MiB", other, memory[100_000], memory[1_000], Bound(ratio=FLAT_RATIO), headline=True),
        curve("memory", "MiB", memory, "flat from a full page on: one page's instances are kept at a time"),
        curve("wall", "ms", {s: [c.wall for c in of] for s, of in seen.items()}, "linear from a page on: each instance's XML is read once"),
        curve("cpu", "ms", {s: [c.cpu for c in of] for s, of in seen.items()}, "linear from a page on, as the time is"),
    ]


def _joining(cloud, joiners: int, options: Options) -> float:
    """Seconds, from the joiners' start to a cluster that they all vote in."""
    from muster_tools.lab.node import Lab

    with Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud) as lab:
        nodes = [lab.add_node(env={"MUSTER_CLUSTER_SIZE": "3"}) for _ in range(3)]
        for node in nodes:
            node.start()
        must(lambda: all_healthy_voters(nodes), "three voters")
        time.sleep(6)  # etcd's five seconds, of a cluster that is older than its joiners
        new = [lab.add_node(env={"MUSTER_CLUSTER_SIZE": str(3 + joiners)}) for _ in range(joiners)]
        began = time.monotonic()
        for node in new:
            node.start()
        must(lambda: all_healthy_voters([*nodes, *new]), f"{joiners} joiners", JOIN_BOUND_SECONDS)
        return time.monotonic() - began


def _point(size: int, values: list[float]) -> list[float]:
    return [size, statistics.median(values), min(values), max(values)]
