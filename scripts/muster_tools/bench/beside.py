"""This executable beside an older one, in one run: start, rest and forming. Nothing is kept; the table is for whoever changed something.

Start is a supervisor's on a fresh disk, until its first line and until EC2 has answered it; what it took of a CPU by then is what a busy
machine changes least. At rest both clusters of three are watched
at the same time. All else is measured in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from muster_tools.bench import rest
from muster_tools.bench.figures import Row, short
from muster_tools.bench.forming import TOGETHER, by_supervisors
from muster_tools.bench.measure import MIB, Failed, cpu_ms, pairs, progress
from muster_tools.bench.peers import Options

STARTS_A_PAIR = 5  # they take a tenth of a second, so there can be more of them
START_BOUND_SECONDS = 30
TIMER_SECONDS = 0.0002  # how sharply a start is timed
OTHER = "the older one"


def start(options: Options, older: Path) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab

    with Ec2() as cloud, Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": "3"}) as lab:
        ours = lab.add_node()
        lab.muster = older
        theirs = lab.add_node()
        for node in (ours, theirs):
            _start(node)  # the warm-up
        sides = pairs(STARTS_A_PAIR * options.pairs, lambda: _start(ours), lambda: _start(theirs))
    titles = ("start: to the first line of the log", "start: to EC2's first answer", "start: CPU by then")
    return [
        Row(f"start/{which}", title, "ms", OTHER, *([run[which] for run in side] for side in sides)) for which, title in enumerate(titles)
    ]


def _start(node) -> tuple[float, float, float]:
    """Milliseconds until its log has a line, and until EC2 has answered it; and of a CPU."""
    logged, answered = node.log.stat().st_size if node.log.exists() else 0, len(node.front.answered)
    began = time.monotonic()
    node.start()
    to_line = _milliseconds(began, lambda: node.log.stat().st_size > logged)
    to_answer = _milliseconds(began, lambda: len(node.front.answered) > answered)
    cpu = cpu_ms(node.process.pid)
    node.power_off()
    node.wipe()
    return to_line, to_answer, cpu


def _milliseconds(began: float, has_come: Callable[[], bool]) -> float:
    while not has_come():
        if time.monotonic() > began + START_BOUND_SECONDS:
            raise Failed(f"a start shows nothing within {START_BOUND_SECONDS} s")
        time.sleep(TIMER_SECONDS)
    return (time.monotonic() - began) * 1000


def at_rest(options: Options, older: Path) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.lab.node import Lab

    with ExitStack() as stack:
        groups = []
        for binary in (options.binary, older):
            cloud = stack.enter_context(Ec2())
            lab = stack.enter_context(Lab(etcd=options.etcd, muster=binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": "3"}))
            groups.append([lab.add_node() for _ in range(3)])
        for group in groups:
            for node in group:
                node.start()
        pids = rest.settled(groups)
        windows = [rest.watch(pids, options.rest / rest.WINDOWS) for _ in range(rest.WINDOWS)]
    return rest.rows(windows, options.rest, OTHER)


def forming(options: Options, older: Path) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2

    found = []
    with Ec2() as cloud:
        for together, title in ((True, TOGETHER), (False, "2 wait for the last")):
            sides = pairs(
                options.pairs,
                lambda: by_supervisors(cloud, 3, options, together),
                lambda: by_supervisors(cloud, 3, replace(options, binary=older), together),
            )
            found.append(Row(f"forming/{together}", f"forming 3: {title}", "s", OTHER, *sides))
    return found


FAMILIES = {"start": start, "rest": at_rest, "forming": forming}


def table(families: list[str], options: Options, older: Path) -> str:
    """In Markdown; a ratio is how many times as much ours costs, pair by pair."""
    lines = ["| figure | pairs | this one | the older one | ratio: least, median, most |", "|---|---|---|---|---|"]
    sizes = [path.stat().st_size / MIB for path in (options.binary, older)]
    rows = [Row("size/binary", "size: the executable", "MiB", OTHER, *([size] for size in sizes))]
    for family in families:
        progress(f"{family}, beside the older one")
        rows += FAMILIES[family](options, older)
    for row in rows:
        ratios = row.ratios()
        told = f"{min(ratios):.2f}, {statistics.median(ratios):.2f}, {max(ratios):.2f}" if ratios else "-"
        medians = (f"{short(statistics.median(side))} {row.unit}".rstrip() for side in (row.ours, row.others))
        lines.append(f"| {row.title} | {len(ratios)} | {' | '.join(medians)} | {told} |")
    return "\n".join(lines)
