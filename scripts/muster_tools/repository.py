"""Where this checkout is, and the executable that scripts/build makes of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS, DOCS = ROOT / "scripts", ROOT / "docs"
BUILD = SCRIPTS / "build"


def target() -> Path:
    """Cargo's output directory."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


def executable(arch: str = platform.machine()) -> Path:
    """Where scripts/build leaves etcd-muster, whether it is there or not."""
    return target() / f"{arch}-unknown-linux-musl" / "release" / "etcd-muster"


def built_executable() -> Path:
    """MUSTER_BINARY, else what scripts/build makes: a copy, since another build may come while it is run.

    Ends the program where it can't be built; scripts/build has said why.
    """
    made = os.environ.get("MUSTER_BINARY")
    if not made and subprocess.run([str(BUILD)]).returncode != 0:
        raise SystemExit("scripts/build failed, for the reason above")
    place = ROOT / "target" / "bench" / "etcd-muster"
    place.parent.mkdir(parents=True, exist_ok=True)
    # Renamed over the one before, which another run may have open.
    fresh = Path(shutil.copy2(made or executable(), f"{place}.{os.getpid()}"))
    return fresh.rename(place)
