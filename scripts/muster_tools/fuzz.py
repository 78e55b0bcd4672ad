"""Throws bytes at every parser and at whatever faces the network (fuzz/fuzz_targets/), from the seeds on.

    scripts/fuzz [--if-possible] [SECONDS [TARGET ...]]

It takes a nightly toolchain, and cargo-fuzz, which is built into target/ if it is missing. Without a nightly the exit code is 69, or
with --if-possible 0; so called it also begins with the seeds alone, while other runs go on from what earlier ones have found
(target/fuzz/corpus). A finding ends with 1 and the file that provokes it: once mended, it becomes a seed in
fuzz/corpus_seed/, which `cargo test --test fuzz_seeds` replays on any toolchain.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from muster_tools.repository import ROOT, target

OUT = target() / "fuzz"
TARGETS = sorted(path.stem for path in (ROOT / "fuzz/fuzz_targets").glob("*.rs"))
SECONDS = 60
# A machine of two cores is the smallest that runs the tests.
JOBS = 2
# One input: the slowest target answers a thousand in a second.
INPUT_BOUND_SECONDS = 20
MAX_INPUT_BYTES = 8192
# Reading the corpus is not a part of the time that was asked for.
START_BOUND_SECONDS = 300
USAGE, UNAVAILABLE = 64, 69


def environment() -> dict[str, str]:
    tools = [str(OUT / "tools/bin"), os.environ.get("PATH", "")]
    # A toolchain that is missing is no reason to fetch one.
    env = os.environ | {"RUSTUP_AUTO_INSTALL": "0", "PATH": os.pathsep.join(tools)}
    memory = Path("/dev/shm")
    # The ledger is synced before every answer: on a disk that would be all there is to see.
    return env | {"TMPDIR": str(memory)} if os.access(memory, os.W_OK) else env


def has_nightly() -> bool:
    if not shutil.which("rustup"):
        return False
    listed = subprocess.run(["rustup", "toolchain", "list"], env=environment(), capture_output=True, text=True, check=False)
    return any(line.startswith("nightly") for line in listed.stdout.splitlines())


def build() -> Path:
    """Builds all targets; the directory they are in."""
    env = environment()
    if not shutil.which("cargo-fuzz", path=env["PATH"]):
        print("building cargo-fuzz", flush=True)
        install = ["cargo", "install", "--quiet", "--locked", "cargo-fuzz", "--root", str(OUT / "tools")]
        subprocess.run([*install, "--target-dir", str(OUT / "tools/build")], env=env, check=True)
    manifest = str(ROOT / "fuzz/Cargo.toml")
    subprocess.run(["cargo", "fetch", "--quiet", "--locked", "--manifest-path", manifest], env=env, check=True)
    subprocess.run(["cargo", "+nightly", "fuzz", "build", "--target-dir", str(OUT)], cwd=ROOT, env=env, check=True)
    rustc = subprocess.run(["rustc", "+nightly", "-vV"], env=env, capture_output=True, text=True, check=True)
    return OUT / re.findall(r"^host: (.+)$", rustc.stdout, re.MULTILINE)[0] / "release"


def fuzz(binary: Path, seconds: int, corpus: Path) -> tuple[bool, str]:
    """Whether nothing was found, and what there is to say."""
    artifacts, target = OUT / "artifacts", binary.name
    for directory in (artifacts, corpus):
        directory.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": MAX_INPUT_BYTES,
        "timeout": INPUT_BOUND_SECONDS,
        "artifact_prefix": f"{artifacts}/{target}-",
        "print_final_stats": 1,
    }
    seeds = ROOT / "fuzz/corpus_seed" / target
    command = [str(binary), *(f"-{name}={value}" for name, value in options.items()), str(corpus), str(seeds)]
    began, log = time.monotonic(), OUT / f"{target}.log"
    with log.open("w") as output:
        ended = subprocess.run(
            command, env=environment(), stdout=output, stderr=output, timeout=seconds + START_BOUND_SECONDS, check=False
        )
    said = log.read_text(errors="replace")
    runs = re.findall(r"number_of_executed_units: (\d+)", said) or ["?"]
    edges = re.findall(r"cov: (\d+)", said) or ["?"]
    line = f"{target:14} {runs[-1]:>9} runs  {edges[-1]:>6} edges  {time.monotonic() - began:>5.0f} s"
    if ended.returncode == 0:
        return True, line
    causes = [text for text in said.splitlines() if "panicked at" in text or "ERROR: " in text]
    found = re.findall(r"Test unit written to (\S+)", said) or [f"no artifact; see {log}"]
    return False, "\n".join([line, *causes[:1], f"FOUND: {found[-1]}"])


def main() -> int:
    arguments = sys.argv[1:]
    share = arguments[:1] == ["--if-possible"]
    words = arguments[share:]
    unknown = [name for name in words[1:] if name not in TARGETS]
    if unknown or (words and not words[0].isdigit()):
        print(f"{__doc__}\ntargets: {', '.join(TARGETS)}", file=sys.stderr)
        return USAGE
    seconds, targets = int(words[0]) if words else SECONDS, words[1:] or TARGETS
    if not has_nightly():
        print("skipped: fuzzing takes a nightly toolchain (rustup toolchain install nightly)")
        return 0 if share else UNAVAILABLE
    binaries = build()
    with tempfile.TemporaryDirectory() as fresh, ThreadPoolExecutor(JOBS) as pool:
        corpora = Path(fresh) if share else OUT / "corpus"
        outcomes = []
        for fine, told in pool.map(lambda name: fuzz(binaries / name, seconds, corpora / name), targets):
            print(told, flush=True)
            outcomes.append(fine)
    return 0 if all(outcomes) else 1
