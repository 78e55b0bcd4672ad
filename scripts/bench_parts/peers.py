"""The programs that ours is compared with: installed under target/bench, or by apt-get, as the lab's are."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab import install

from bench_parts.figures import ROOT
from bench_parts.measure import Failed, progress

PLACE = ROOT / "target" / "bench"
BOOTSTRAPPERS = Path(__file__).parent / "bootstrappers"
AWSCLI = [f"{install.AWSCLI}; python_version >= '3.10'", "awscli<1.46; python_version < '3.10'"]
BENCHES = ("parsing", "signing", "hello")
DEBIAN = {"tini": "tini", "jq": "jq", "curl": "curl", "/usr/bin/time": "time", "strace": "strace"}


@dataclass
class Options:
    """What a family of rows is given."""

    binary: Path
    etcd: str
    pairs: int
    rest: int
    quick: bool


def need(*programs: str) -> None:
    """Debian's packages of these, where they are missing."""
    missing = [DEBIAN[program] for program in programs if not shutil.which(program)]
    if not missing:
        return
    try:
        install.install_packages(missing)
    except install.InstallError as error:
        raise Failed(str(error)) from error


def awscli() -> Path:
    """PyPI's, in a venv of its own."""
    venv = PLACE / "awscli"
    try:
        with install.alone(PLACE):
            install.install_venv(venv, "awscli", AWSCLI)
    except install.InstallError as error:
        raise Failed(str(error)) from error
    return venv / "bin" / "aws"


def target_directory() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / f"{platform.machine()}-unknown-linux-musl" / "release"


def static_binary() -> Path:
    """As scripts/build makes it; a copy, since another build may come while it is measured."""
    progress("building the static binary")
    run([str(ROOT / "scripts" / "build")])
    PLACE.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(target_directory() / "etcd-muster", PLACE / "etcd-muster"))


def bench_program(name: str) -> Path:
    """benches/NAME.rs, built in the profile and for the target of the executable that is shipped."""
    _build_benches()
    built = (target_directory() / "deps").glob(f"{name}-*")
    return max((path for path in built if not path.suffix), key=lambda path: path.stat().st_mtime)


@cache
def _build_benches() -> None:
    progress("building benches/")
    chosen = [word for bench in BENCHES for word in ("--bench", bench)]
    run([str(ROOT / "scripts" / "build"), platform.machine(), *chosen])
    run([str(ROOT / "scripts" / "build")])  # cargo builds the executable for benches too, with their crates' features: put ours back


def run(command: list[str], **more) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
