"""The checks, checked: breaks one guard at a time in a copy of the source and shows which check fails.

    scripts/mutate [NAME ... | --part N/M]

A mutation that no check notices is a bug in the checks: it is printed as SURVIVED, and the exit code is 1.
Some are judged at the same time, each in a copy and a target directory of its own: a build of one crate after another keeps one core busy.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from muster_tools.mutate.mutations import MUTATIONS, Mutation
from muster_tools.repository import ROOT, target

# A mutation is done with as soon as one check fails: those first that are nearest to what is broken, the long ones last.
CORE = [f"--package muster-core {check}" for check in ("--test decide", "--test upgrade", "--test paxos", "--lib", "--test retention")] + ["--test scenarios"]
EDGES = ["--lib", "--test tls", "--test restore", "--test scenarios"]
# Not in debug: the small views alone take a quarter of an hour there.
WHOLE = [f"--profile model --package muster-core {check}" for check in ("--test model", "--test exhaustive")]
CHECK_BOUND_SECONDS = 900
MOST_LANES = 4
OWN_CRATES = ("etcd-muster-", "muster-core-")  # as their fingerprints begin; a copy of the source builds these anew


class Lane:
    """A copy of the source, with what is built of it: one mutation at a time."""

    def __init__(self, place: Path):
        self.place = place
        shutil.rmtree(place, ignore_errors=True)
        # Files as they are now, so that an unfinished change is what gets checked.
        shutil.copytree(ROOT, place, symlinks=True, ignore=shutil.ignore_patterns("target", ".git"))
        take_what_is_built(target() / "debug", place / "target" / "debug")

    def first_failing_check(self, mutation: Mutation) -> str | None:
        path = self.place / "src" / mutation.file
        source = path.read_text()
        path.write_text(source.replace(mutation.old, mutation.new))
        try:
            return next((failed for check in checks_of(mutation.file) if (failed := self._failed(check))), None)
        finally:
            path.write_text(source)

    def _failed(self, check: str) -> str | None:
        command = ["cargo", "test", "--quiet", "--locked", "--target-dir", str(self.place / "target"), *check.split()]
        # The same views whichever day it is: what is noticed must not depend on it.
        views = {**os.environ, "EXHAUSTIVE": "kinds"}
        bounds = {"cwd": self.place, "env": views, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": CHECK_BOUND_SECONDS}
        try:
            outcome = subprocess.run(command, text=True, **bounds)
        except subprocess.TimeoutExpired:
            return f"{named(check)}: no end within {CHECK_BOUND_SECONDS} s"
        if outcome.returncode == 0:
            return None
        if "could not compile" in outcome.stdout:
            raise SystemExit(f"mutate: the mutation doesn't compile:\n{outcome.stdout[-3000:]}")
        failed = [line.split()[0] for line in outcome.stdout.splitlines() if line.startswith("    ") and len(line.split()) == 1]
        return f"{named(check)}: {failed[-1] if failed else 'failed'}"


def checks_of(file: str) -> list[str]:
    """Of a file below src/: what its own module's tests are, then the rest of what can see it. The core sees nothing of the edges."""
    if file.startswith("core/"):
        return [*CORE, *EDGES, *WHOLE]
    module = file.removesuffix(".rs").removesuffix("/mod").replace("/", "::")
    own = [check for check in EDGES if check == f"--test {Path(file).stem}"]
    return [f"--lib {module}::", *own, *(check for check in EDGES if check not in own)]


def named(check: str) -> str:
    return "lib" if "--lib" in check else check.split()[-1]


def take_what_is_built(built: Path, lane: Path) -> None:
    """The crates of others, with their times, so that cargo finds them fresh; what isn't there, it builds."""
    if not (built / ".fingerprint").is_dir():
        return
    foreign = [entry.name for entry in (built / ".fingerprint").iterdir() if not entry.name.startswith(OWN_CRATES)]
    hashes = {name.rpartition("-")[2] for name in foreign}
    for name in foreign:
        shutil.copytree(built / ".fingerprint" / name, lane / ".fingerprint" / name)
        if (built / "build" / name).is_dir():
            shutil.copytree(built / "build" / name, lane / "build" / name)
    (lane / "deps").mkdir(parents=True)
    for file in (built / "deps").iterdir():
        if file.stem.rpartition("-")[2] in hashes:
            shutil.copy2(file, lane / "deps")


def choose(words: list[str]) -> list[Mutation]:
    """All; those named; or one part of them all, `--part 2/3`, every third from the second on."""
    if words[:1] == ["--part"]:
        part, parts = (int(number) for number in words[1].split("/"))
        return MUTATIONS[part - 1 :: parts]
    return [m for m in MUTATIONS if not words or m.name in words]


def main() -> int:
    chosen = choose(sys.argv[1:])
    if not chosen:
        raise SystemExit(f"mutate: none of {', '.join(m.name for m in MUTATIONS)}")
    for mutation in MUTATIONS:  # of whatever part: one whose text has changed is to be seen at once
        times = (ROOT / "src" / mutation.file).read_text().count(mutation.old)
        if times != 1:
            raise SystemExit(f"mutate: {mutation.name}: {mutation.file} holds its text {times} times, not once")
    places = [ROOT / "target" / "mutate" / str(number) for number in range(min(os.cpu_count() or 1, MOST_LANES, len(chosen)))]
    free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    survivors = 0
    for crates in ([], ["--package", "muster-core"]):  # with their features, so that no lane builds the crates of others
        subprocess.run(["cargo", "test", "--quiet", "--locked", "--no-run", "--lib", *crates], cwd=ROOT, check=True)
    try:
        for place in places:
            free.put(Lane(place))

        def judge(mutation: Mutation) -> tuple[Mutation, str | None, float]:
            lane, began = free.get(), time.monotonic()
            try:
                return mutation, lane.first_failing_check(mutation), time.monotonic() - began
            finally:
                free.put(lane)

        with ThreadPoolExecutor(len(places)) as pool:
            for mutation, failing, took in pool.map(judge, chosen):
                survivors += failing is None
                print(f"{mutation.name:<40} {failing or 'SURVIVED':<60} {took:4.0f} s", flush=True)
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
    print(f"{len(chosen)} mutations, {survivors} survived")
    return 1 if survivors else 0
