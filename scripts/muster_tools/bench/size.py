"""Size: the executable, and what an image holds beside etcd's own files."""

from __future__ import annotations

import platform
import re
import subprocess

from muster_tools.bench import peers
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import MIB, progress
from muster_tools.bench.peers import Options
from muster_tools.lab import install

BINARY_MIB, IMAGE_MIB = 4, 4
SEEDS_PACKAGES = ["bash", "jq", "curl", "awscli"]


def measure(options: Options) -> list[Row]:
    progress("size")
    binary = options.binary.stat().st_size / MIB
    hello = peers.bench_program("hello").stat().st_size / MIB
    limit = "the least program of the same crates (benches/hello.rs)"
    rows = [Row("size/binary", "size: the executable", "MiB", limit, [binary], [hello], Bound(ours=BINARY_MIB), quick=True, headline=True)]
    if options.quick:
        return rows
    ours = over_etcd(options)
    seeds, hindered = _as_debian_installs_them()
    other = f"{', '.join(SEEDS_PACKAGES)}, as Debian installs them (of the seed's image)"
    note = f"what the seed's image holds is not measured: {hindered}" if hindered else ""
    rows.append(
        Row(
            "size/image",
            "size: the image over etcd's own files",
            "MiB",
            other,
            [ours],
            seeds,
            Bound(ours=IMAGE_MIB),
            note=note,
            headline=True,
        )
    )
    return rows


def over_etcd(options: Options) -> float:
    """Of the files that scripts/image packs: all but etcd's programs."""
    from muster_tools.image import crates, licences

    beside = licences.files(crates.linked(platform.machine())).values()
    return (options.binary.stat().st_size + sum(map(len, beside))) / MIB


def _as_debian_installs_them() -> tuple[list[float], str]:
    """MiB of these packages with all that they depend on, on a system that has nothing yet; or why that can't be told."""
    empty = ["-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false"]
    try:
        install.debian_version(SEEDS_PACKAGES[-1])  # fetches lists that were never fetched
        told = subprocess.run(["apt-get", *empty, "--simulate", "install", *SEEDS_PACKAGES], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired, install.InstallError) as error:
        return [], str(error)
    names = re.findall(r"^Inst (\S+) \((\S+)", told.stdout, re.MULTILINE)
    if told.returncode != 0 or not names:
        return [], (told.stderr.strip().splitlines() or ["apt-get names no package"])[-1]
    shown = peers.run(["apt-cache", "show", *(f"{name}={version}" for name, version in names)])
    return [sum(int(kib) for kib in re.findall(r"^Installed-Size: (\d+)", shown, re.MULTILINE)) / 1024], ""
