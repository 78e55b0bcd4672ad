"""What this checkout says of itself: version, commit, time; and the binary that is built from it."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from muster_tools.image import elf
from muster_tools.image.refusal import USAGE, Refused
from muster_tools.repository import BUILD, ROOT, executable


@dataclass(frozen=True)
class Project:
    version: str
    revision: str  # the commit, with -dirty if files differ from it; empty outside of git
    source: str  # where the code can be had; empty when nothing says so
    epoch: int  # seconds; every time stamp that is written


def describe(source: str | None) -> Project:
    found = re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)
    return Project(version=found[1], revision=_revision(), source=_origin() if source is None else source, epoch=_epoch())


def binary(arch: str, given: Path | None) -> bytes:
    """etcd-muster, static and for that machine; cargo decides what has to be built."""
    path = given
    if path is None:
        if subprocess.run([str(BUILD), arch]).returncode != 0:
            raise Refused(f"scripts/build {arch} failed, for the reason above")
        path = executable(arch)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", USAGE) from error
    wrong = elf.fault(content, arch)
    if wrong:
        raise Refused(f"{path} {wrong}", USAGE)
    return content


def _revision() -> str:
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain", "--untracked-files=no") else commit


def _origin() -> str:
    """Only an address for everybody, and without whatever login is in it."""
    url = urllib.parse.urlsplit(_git("config", "remote.origin.url"))
    return f"https://{url.hostname}{url.path}" if url.scheme == "https" and url.hostname else ""


def _epoch() -> int:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), else the last commit's time."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "0"
    if not text.isdecimal():
        raise Refused(f"SOURCE_DATE_EPOCH={text} is no number of seconds", USAGE)
    return int(text)


def _git(*arguments: str) -> str:
    """Its answer, or nothing where there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
