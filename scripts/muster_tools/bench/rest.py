"""At rest: three supervisors of a healthy cluster, and beside them tini with the same etcds, watched for the same time."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

from muster_tools.bench import peers
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import Failed, all_healthy_voters, anonymous, cpu_ms, must, progress, resident, switches
from muster_tools.bench.peers import Options

OVER_TINI_MIB, RESIDENT_MIB = 2, 3
SWITCHES_AN_HOUR = 3600
SETTLE_SECONDS = 15  # a supervisor's faster polls after forming are over by then
WINDOWS = 10  # the pairs
TRACE_SECONDS = 30  # traced at the end, since tracing wakes what it watches


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab, static_list_arguments

    peers.need("tini")
    tini = shutil.which("tini")
    watched = 2 * WINDOWS if options.quick else options.rest
    progress(f"at rest, {watched} s")
    size = {"MUSTER_CLUSTER_SIZE": "3"}
    with Ec2() as cloud, Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env=size) as lab, Lab(etcd=options.etcd) as held:
        nodes = [lab.add_node() for _ in range(3)]
        plain = [held.add_node(launch=False) for _ in range(3)]
        for node in nodes:
            node.start()
        for node in plain:
            arguments = [f"--data-dir={node.data}", f"--wal-dir={node.wal}", *static_list_arguments(node, plain)]
            node.start_program([tini, "--", str(held.etcd_binary), *arguments], {"PATH": "/usr/bin"})
        pids = settled([nodes, plain])
        calls = lambda: sum(sum(n.front.calls.values()) + sum(n.imds.requests.values()) for n in nodes)
        calls_before = calls()
        windows = [watch(pids, watched / WINDOWS) for _ in range(WINDOWS)]
        made = calls() - calls_before
        own = max(anonymous(pid) for pid in pids[0])
        traced = [] if options.quick else [_syscalls(group[0]) for group in pids]
    found = rows(windows, watched, "tini holding the same etcd")
    memory, _, wakeups = found
    memory.bound, memory.quick, memory.headline = Bound(excess=OVER_TINI_MIB), True, True
    memory.note += f"; of ours {own:.2f} MiB is no page of the executable"
    wakeups.bound = Bound(ours=SWITCHES_AN_HOUR)
    if options.quick:
        return [memory]
    ours = memory.ours
    found.insert(1, Row("rest/alone", "at rest: resident, the largest of three, alone", "MiB", "none", ours, [], Bound(ours=RESIDENT_MIB), headline=True))
    if all(traced):
        title, note = "at rest: system calls an hour", f"one of each, traced for {TRACE_SECONDS} s"
        sides = [[calls * 3600 / TRACE_SECONDS] for calls in traced]
        found.append(Row("rest/syscalls", title, "", "tini holding the same etcd", *sides, note=note))
    else:
        progress("system calls: not measured, strace may not attach here")
    found.append(Row("rest/calls", "at rest: EC2 and IMDS calls of three", "", "none", [made], [], Bound(ours=0), note=f"over {watched} s"))
    return found


def settled(groups: list[list]) -> list[list[int]]:
    """The supervisors' process ids, once each group is a healthy cluster that has come to rest."""
    for group in groups:
        must(lambda: all_healthy_voters(group), "three voters")
    time.sleep(SETTLE_SECONDS)
    return [[node.process.pid for node in group] for group in groups]


def rows(windows: list[list[dict[str, list[float]]]], watched: int, other: str) -> list[Row]:
    """Memory, CPU and wake-ups of two groups that were watched for so many seconds."""
    found = []
    hour = 3600 / (watched / WINDOWS)
    for what, title, unit, per in (
        ("memory", "resident, the largest of three", "MiB", 1),
        ("cpu", "CPU an hour, the most of three", "ms", hour),
        ("wakeups", "context switches an hour, the most of three", "", hour),
    ):
        sides = [[max(seen[what]) * per for seen in side] for side in zip(*windows)]
        note = f"one run of {watched} s, in {WINDOWS} windows"
        found.append(Row(f"rest/{what}", f"at rest: {title}", unit, other, *sides, note=note))
    return found


def watch(pids: list[list[int]], seconds: float) -> list[dict[str, list[float]]]:
    """One window: what each process had, and what was added in the time."""
    before = [[(cpu_ms(pid), switches(pid)) for pid in group] for group in pids]
    time.sleep(seconds)
    found = []
    for group, was in zip(pids, before):
        added = [(cpu_ms(pid) - cpu, switches(pid) - woken) for pid, (cpu, woken) in zip(group, was)]
        found.append({"memory": [resident(pid) for pid in group], "cpu": [a for a, _ in added], "wakeups": [b for _, b in added]})
    return found


def _syscalls(pid: int) -> int | None:
    try:
        peers.need("strace")
    except Failed:
        return None
    command = ["timeout", "--signal=INT", str(TRACE_SECONDS), "strace", "-f", "-c", "-p", str(pid)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=TRACE_SECONDS + 30).stderr
    # "100.00    0.000123           5        24         2 total"; the errors' column may be empty
    total = re.search(r"^\s*100\.00\s+\S+\s+\S+\s+(\d+)(?:\s+\d+)? total$", told, re.MULTILINE)
    if total:
        return int(total.group(1))
    return 0 if "attached" in told and "rror" not in told else None
