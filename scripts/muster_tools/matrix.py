"""The end-to-end tests that depend on etcd's release, on every release that can be had: a table in Markdown, a row a group of tests.

    scripts/matrix                                   # every release: some two minutes each
    scripts/matrix --etcd 3.6.16 --etcd 3.7.3
    scripts/matrix --write                           # into docs/releases.md, with today's date

A release that can't be had on this machine is left out, by a line on stderr. Ends with 1 if a test failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from muster_tools import command
from muster_tools.lab import install
from muster_tools.repository import DOCS, ROOT

DOCUMENT = DOCS / "releases.md"
TESTS = ROOT / "tests" / "e2e"
WITHOUT_LEARNERS = "3.3."

# A row a file: what its tests are about.
GROUPS = {
    "test_forming": "forming",
    "test_life": "restarts, lost disks, replacements, removed members",
    "test_leave": "leaving",
    "test_tls": "TLS",
    "test_auth": "authentication",
    "test_exits": "damaged data, alarms, exits and their words",
    "test_releases": "settings by release, questions, stops",
    "test_snapshots": "snapshots",
}


@dataclass
class Cell:
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        run = self.passed + len(self.failed)
        if not run:
            return "–"
        return f"**{len(self.failed)} of {run} failed**" if self.failed else f"{run} ok"


@dataclass
class Column:
    release: str
    cells: dict[str, Cell]
    seconds: float
    complete: bool  # pytest itself came to its end

    @property
    def failed(self) -> list[str]:
        return [test for cell in self.cells.values() for test in cell.failed]


def main() -> int:
    parser = command.parser("matrix", __doc__)
    parser.add_argument("--etcd", action="append", choices=install.releases(), help="only this release; repeatable")
    parser.add_argument("--without", action="append", default=[], metavar="VERSION", help="not this one; repeatable")
    parser.add_argument("--part", default="1/1", metavar="N/M", help="of those, every Mth from the Nth on")
    parser.add_argument("--jobs", type=int, default=6, help="tests at a time; default: %(default)s")
    parser.add_argument("--write", action="store_true", help="also into docs/releases.md")
    command.add_binary(parser)
    options = parser.parse_args()
    part, parts = (int(number) for number in options.part.split("/"))
    wanted = [release for release in options.etcd or install.releases() if release not in options.without][part - 1 :: parts]
    install.install(install.DEFAULT_CACHE, old_etcd=False, wanted=wanted)
    there = [release for release in wanted if install.etcd_binaries(release).is_dir()]
    binary = command.executable(options)
    columns = [run(release, binary, options.jobs) for release in there]
    table = "\n".join(markdown(columns, time.strftime("%Y-%m-%d", time.gmtime())))
    print(table)
    if options.write:
        write(DOCUMENT, table)
    for column in columns:
        for test in column.failed:
            print(f"matrix: failed on etcd {column.release}: {test}", file=sys.stderr)
    return 0 if all(column.complete and not column.failed for column in columns) else 1


def run(release: str, binary: Path, jobs: int) -> Column:
    """Every test marked for it; what pytest says goes to stderr."""
    marked = "release and no_learners" if release.startswith(WITHOUT_LEARNERS) else "release"
    print(f"matrix: etcd {release} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        pytest = [str(install.python()), "-m", "pytest", "-q", "-n", str(jobs), "--dist", "worksteal", f"--junit-xml={report}"]
        files = [str(TESTS / f"{name}.py") for name in GROUPS]
        environment = {**os.environ, "LAB_ETCD": release, "MUSTER_BINARY": str(binary)}
        ended = subprocess.run([*pytest, "-m", marked, *files], cwd=ROOT, env=environment, stdout=sys.stderr).returncode
        cells = read(report) if report.is_file() else {}
    return Column(release, cells, time.monotonic() - began, complete=ended in (0, 1) and bool(cells))


def read(report: Path) -> dict[str, Cell]:
    """pytest's JUnit file: a cell a test file."""
    cells: dict[str, Cell] = defaultdict(Cell)
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        cell = cells[case.get("classname", "").rpartition(".")[2]]
        if case.find("failure") is not None or case.find("error") is not None:
            cell.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            cell.skipped += 1
        else:
            cell.passed += 1
    return dict(cells)


def markdown(columns: list[Column], date: str) -> Iterable[str]:
    yield f"Run on {date}."
    yield ""
    yield f"| tests | {' | '.join(column.release for column in columns)} |"
    yield "|---|" + "---|" * len(columns)
    for name, what in GROUPS.items():
        yield f"| {what} | {' | '.join(str(column.cells.get(name, Cell())) for column in columns)} |"
    whole = [f"{column.seconds:.0f}" if column.complete else "**not completed**" for column in columns]
    yield f"| seconds, {os.cpu_count()} cores | {' | '.join(whole)} |"


def write(document: Path, table: str) -> None:
    """Between the two marks, which the document keeps."""
    begin, end = "<!-- scripts/matrix -->", "<!-- end -->"
    text = document.read_text()
    if not re.search(f"{begin}.*{end}", text, re.DOTALL):
        raise SystemExit(f"{document} has no place for the table: {begin} … {end}")
    document.write_text(re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL))
