"""An etcd release: a directory, upstream's tarball, or a version that is fetched; verified by the sums kept here.

`etcd-sha256sums.txt` has upstream's own sums. Only what is listed there is fetched; a newer release is one line more.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from muster_tools.image import elf
from muster_tools.image.refusal import USAGE, Refused, say

# The newest of the line that a cluster reaches from 3.4 and leaves for 3.6 (upgrades go one minor at a time), and past the
# defects known of 3.5 before .32.
DEFAULT_VERSION = "3.5.33"
DOWNLOAD_URL = "https://github.com/etcd-io/etcd/releases/download"
SUMS = Path(__file__).with_name("etcd-sha256sums.txt")
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}  # as Go and upstream's files have them

REQUIRED = ("etcd", "etcdctl")
OPTIONAL = ("etcdutl",)  # since 3.5
RESTORED_BY_ETCDCTL_BEFORE = (3, 6)  # 3.6's has no `snapshot restore` any more
VERSION = re.compile(r"\d+\.\d+\.\d+")
DOWNLOAD_TIMEOUT = 60  # seconds without a byte
ANSWER_TIMEOUT = 30  # seconds; `etcd --version`, under qemu at worst


@dataclass(frozen=True)
class Release:
    version: str
    programs: dict[str, bytes]
    tarball_sha256: str = ""  # of the release that they came in; empty for a directory

    @property
    def restores_snapshots(self) -> bool:
        """Whether etcd-muster finds what restores a snapshot on trial."""
        line = tuple(int(part) for part in self.version.split(".")[:2])
        return "etcdutl" in self.programs or line < RESTORED_BY_ETCDCTL_BEFORE


def obtain(given: str | None, arch: str, sums: Path, cache: Path) -> Release:
    """What `--etcd` names; without it ETCD_DIR, else the default version."""
    asked = given or os.environ.get("ETCD_DIR") or DEFAULT_VERSION
    try:
        if Path(asked).is_dir():
            release = _from_directory(Path(asked), arch)
        elif Path(asked).is_file():
            release = _from_tarball(Path(asked), arch, _read_sums(sums))
        elif VERSION.fullmatch(asked.removeprefix("v")):
            release = _fetch(asked.removeprefix("v"), arch, _read_sums(sums), cache)
        else:
            raise Refused(f"{asked} is no directory, no file and no version of etcd", USAGE)
    except Refused as refusal:
        if given or os.environ.get("ETCD_DIR") or refusal.code == USAGE:
            raise
        hint = "give an etcd release: --etcd DIR|TARBALL|VERSION, or its directory in ETCD_DIR"
        raise Refused(f"{refusal}; {hint}") from refusal
    for name, program in release.programs.items():
        wrong = elf.fault(program, arch)
        if wrong:
            raise Refused(f"{asked}: {name} {wrong}; upstream's releases fit", USAGE)
    if not release.restores_snapshots:
        say("scripts/image", f"{asked} has no etcdutl: put it beside etcd if MUSTER_SNAPSHOT_VERIFY=restore is to be used")
    return release


def _from_directory(directory: Path, arch: str) -> Release:
    """As unpacked from upstream's tarball, or its bin directory."""
    found = {}
    for name in REQUIRED + OPTIONAL:
        path = next((path for path in (directory / name, directory / "bin" / name) if path.is_file()), None)
        if path is not None:
            found[name] = path.read_bytes()
    _require(found, str(directory))
    return Release(_own_word(found["etcd"], arch, directory.resolve().name), found)


def _from_tarball(path: Path, arch: str, sums: dict[str, str]) -> Release:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    listed = {sum_: name for name, sum_ in sums.items()}.get(digest)
    if listed is None and path.name in sums:
        raise Refused(f"{path} isn't upstream's: its sha256 is {digest}, not {sums[path.name]}")
    if listed is None:
        say("scripts/image", f"{path} is no release whose sum is kept here; taken as it is")
    programs = _unpack(content, str(path))
    version = VERSION.search(listed)[0] if listed else _own_word(programs["etcd"], arch, path.name)
    return Release(version, programs, digest)


def _fetch(version: str, arch: str, sums: dict[str, str], cache: Path) -> Release:
    name = f"etcd-v{version}-linux-{DEBIAN_NAMES[arch]}.tar.gz"
    if name not in sums:
        known = sorted({VERSION.search(file)[0] for file in sums}, key=lambda v: [int(part) for part in v.split(".")])
        raise Refused(f"no sum of {name} is kept here, so it isn't fetched; there are {', '.join(known)}", USAGE)
    kept = cache / name
    content = kept.read_bytes() if kept.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != sums[name]:
        url = f"{os.environ.get('ETCD_DOWNLOAD_URL', DOWNLOAD_URL).rstrip('/')}/v{version}/{name}"
        say("scripts/image", f"fetching {url}")
        content = _download(url)
        digest = hashlib.sha256(content).hexdigest()
        if digest != sums[name]:
            raise Refused(f"{url} isn't what it should be: its sha256 is {digest}, not {sums[name]}")
        _keep(kept, content)
    return Release(version, _unpack(content, name), digest)


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer:
            return answer.read()
    except (OSError, http.client.HTTPException, ValueError) as error:  # a URLError is an OSError
        raise Refused(f"{url} can't be fetched: {getattr(error, 'reason', None) or error}") from error


def _keep(path: Path, content: bytes) -> None:
    """In one rename: what is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as scratch:
        scratch.write(content)
    os.replace(scratch.name, path)


def _unpack(content: bytes, name: str) -> dict[str, bytes]:
    """Its programs, wherever in it; nothing else, and nothing onto the disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                program = member.name.rpartition("/")[2]
                if member.isfile() and program in REQUIRED + OPTIONAL:
                    found[program] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Refused(f"{name} can't be unpacked: {error}", USAGE) from error
    _require(found, name)
    return found


def _require(found: dict[str, bytes], where: str) -> None:
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise Refused(f"{where} has no {' and no '.join(missing)}", USAGE)


def _own_word(etcd: bytes, arch: str, name: str) -> str:
    """`etcd --version`; where it can't be run, what its release is called."""
    runner = [] if arch == platform.machine() else [shutil.which(f"qemu-{arch}-static")]
    if None not in runner and not elf.fault(etcd, arch):
        with tempfile.TemporaryDirectory() as scratch:
            program = Path(scratch, "etcd")
            program.write_bytes(etcd)
            program.chmod(0o755)
            command = [*runner, str(program), "--version"]
            try:
                said = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER_TIMEOUT).stdout
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Refused(f"{name}: etcd --version: {error}") from error
        found = re.search(r"^etcd Version: (\S+)", said, re.M)
        if found is None:
            raise Refused(f"{name}: etcd --version says no version", USAGE)
        return found[1]
    found = re.search(rf"etcd-v?({VERSION.pattern})", name)
    if found is None:
        raise Refused(f"{name}: which version of etcd this is can't be seen here; call it etcd-v3.x.y", USAGE)
    return found[1]


def _read_sums(path: Path) -> dict[str, str]:
    """By file name; sha256sum's own format."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: {error}", USAGE) from error
    pairs = [line.split() for line in lines if line.strip()]
    wrong = next((pair for pair in pairs if len(pair) != 2 or not re.fullmatch("[0-9a-f]{64}", pair[0])), None)
    if wrong is not None:
        raise Refused(f"{path}: {' '.join(wrong)} is no line of sha256sum", USAGE)
    return {name.lstrip("*"): sum_ for sum_, name in pairs}
