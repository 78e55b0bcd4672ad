"""Pairs, one process's costs, and waits that are sharper than the lab's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
POLL_SECONDS = 0.004
FORM_BOUND_SECONDS = 60  # for any one cluster to form
PROCESS_BOUND_SECONDS = 120


class Failed(Exception):
    """What ended the run, in a line."""


def progress(text: str) -> None:
    print(f"bench: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def pairs(number: int, *contestants: Callable[[], object]) -> list[list]:
    """Each contestant once a round; who begins changes from round to round, so that none always comes after another."""
    found = [[] for _ in contestants]
    for round_ in range(number):
        for turn in range(len(contestants)):
            which = (round_ + turn) % len(contestants)
            found[which].append(contestants[which]())
    return found


def poll(condition: Callable[[], object], bound: float = FORM_BOUND_SECONDS) -> bool:
    """Whether it came true in time; a node that can't be asked counts as "not yet"."""
    from muster_tools.lab.etcd import NOT_YET

    deadline = time.monotonic() + bound
    while True:
        try:
            if condition():
                return True
        except NOT_YET:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)


def must(condition: Callable[[], object], what: str, bound: float = FORM_BOUND_SECONDS) -> None:
    if not poll(condition, bound):
        raise Failed(f"{what}: not within {bound:g} s")


def all_healthy_voters(nodes) -> bool:
    if not all(node.etcd.health() for node in nodes):
        return False
    members = nodes[0].etcd.members()
    return len(members) == len(nodes) and not any(m.learner for m in members)


@dataclass
class Cost:
    """Of one process and its children, from start to end."""

    wall: float  # ms
    cpu: float  # ms, user and system
    peak: float | None = None  # resident MiB, where it was asked for


def cost_of(command: list[str], environment: dict[str, str], peak: bool = False, bound: float = PROCESS_BOUND_SECONDS) -> Cost:
    """The peak is told by GNU time, in between: the kernel starts a child's peak with what its parent held at the fork, and
    this python holds more than what is measured. It adds a millisecond, so a run that is shorter than that is timed without."""
    wrapper = ["/usr/bin/time", "-f", "%M"] if peak else []
    began = time.monotonic()
    child = subprocess.Popen(
        [*wrapper, *command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    limit = threading.Timer(bound, child.kill)
    limit.start()
    said = child.stderr.read().decode(errors="replace").strip()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    limit.cancel()
    child.stderr.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise Failed(f"{Path(command[0]).name} {' '.join(command[1:3])} ended with {child.returncode}: {said[-500:]}")
    cpu = (usage.ru_utime + usage.ru_stime) * 1000
    return Cost(wall * 1000, cpu, int(said.split()[-1]) / 1024 if peak else None)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def resident(pid: int) -> float:
    return int(status_of(pid)["VmRSS"].split()[0]) / 1024


def anonymous(pid: int) -> float:
    """Of what is resident, what is no page of a file."""
    return int(status_of(pid)["RssAnon"].split()[0]) / 1024


def switches(pid: int) -> int:
    """Context switches of all threads: an upper bound of the wake-ups."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        total += int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
    return total


def cpu_ms(pid: int) -> float:
    """On a CPU so far, by the scheduler's own count: the ticks of /proc/PID/stat are too coarse for who hardly runs."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
