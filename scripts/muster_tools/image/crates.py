"""The crates that are linked into the executable, by cargo's own resolution."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from muster_tools.image.refusal import Refused
from muster_tools.repository import ROOT

Package = dict[str, Any]  # as `cargo metadata` has it


def linked(arch: str) -> list[Package]:
    """By name and version; without our own, what tests and build scripts need, and what runs in the compiler."""
    target = f"{arch}-unknown-linux-musl"
    # `cargo metadata` can't tell a feature that only tests ask for from one that is built; `cargo tree` can.
    tree = _cargo("tree", "--edges=normal,no-proc-macro", f"--target={target}", "--prefix=none", "--format={p}")
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines()}
    told = json.loads(_cargo("metadata", "--format-version=1", f"--filter-platform={target}"))
    found = [one for one in told["packages"] if one["source"] and (one["name"], f"v{one['version']}") in wanted]
    return sorted(found, key=lambda one: (one["name"], one["version"]))


def _cargo(*arguments: str) -> str:
    command = ["cargo", *arguments, "--locked"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise Refused(f"cargo, which lists the crates: {error.strerror}") from error
    if done.returncode != 0:
        raise Refused(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
