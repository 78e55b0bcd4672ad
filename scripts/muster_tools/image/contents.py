"""What the image is: its files, and what an engine is told about them. Dockerfile.scratch says the same; a test compares."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from muster_tools.image.project import Project
from muster_tools.image.release import DEBIAN_NAMES, Release

NAME = "etcd-muster"
USER = 2379  # uid and gid: nobody's on a usual host, and easy to remember
DIRECTORIES = {"/etcd": 0, "/etcd/bin": 0, "/etcd/data": USER, "/etcd/ssl": 0, "/etcd/wal": USER}  # and whose they are
PRIVATE = 0o700  # of what belongs to USER: etcd warns about anything more open
PUBLIC = 0o755
READABLE = 0o644

SECOND = 10**9  # Docker counts a health check's times in nanoseconds


@dataclass(frozen=True)
class Entry:
    """A directory where `content` is None."""

    path: str
    mode: int
    owner: int = 0
    content: bytes | None = None


def entries(binary: bytes, release: Release, licences: dict[str, bytes]) -> list[Entry]:
    """Sorted, so that the same input gives the same image."""
    programs = {**release.programs, NAME: binary}
    found = [Entry(path, PRIVATE if owner else PUBLIC, owner) for path, owner in DIRECTORIES.items()]
    found += [Entry(f"/etcd/bin/{name}", PUBLIC, content=content) for name, content in programs.items()]
    found += [Entry(f"/etcd/{name}", READABLE, content=content) for name, content in licences.items()]
    return sorted(found, key=lambda entry: entry.path)


def settings(project: Project, release: Release) -> dict[str, object]:
    """The image's `config`, in Docker's words."""
    return {
        "User": f"{USER}:{USER}",
        "ExposedPorts": {"2379/tcp": {}, "2380/tcp": {}},
        "Env": ["PATH=/etcd/bin"],
        "Entrypoint": ["/etcd/bin/etcd-muster"],
        "Cmd": ["run"],
        "Healthcheck": {
            "Test": ["CMD", "/etcd/bin/etcd-muster", "health"],
            "Interval": 10 * SECOND,
            "Timeout": 6 * SECOND,  # more than the 5 s that `health` waits
            "StartPeriod": 120 * SECOND,  # founding without an absent instance takes a grace time of one minute
        },
        "Volumes": {"/etcd/data": {}, "/etcd/wal": {}},
        "StopSignal": "SIGTERM",
        "Labels": {f"org.opencontainers.image.{name}": value for name, value in labels(project).items()}
        | {"io.etcd.version": release.version},
    }


def labels(project: Project) -> dict[str, str]:
    """By the names of the OCI image specification (annotations)."""
    return {
        "title": NAME,
        "description": "Turns tagged EC2 instances into one etcd cluster, and keeps it one",
        "version": project.version,
        "revision": project.revision,
        "source": project.source,
        "licenses": "Apache-2.0",
    }


def platform(arch: str) -> dict[str, str]:
    """As the OCI image specification names it."""
    return {"architecture": DEBIAN_NAMES[arch], "os": "linux", **({"variant": "v8"} if arch == "aarch64" else {})}


def created(project: Project) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(project.epoch))


def write_context(directory: Path, found: list[Entry]) -> None:
    """The same files for `docker build -f Dockerfile.scratch`: `root` is root's, `owned` is USER's (below /etcd)."""
    for entry in found:
        path = directory / ("owned" + entry.path.removeprefix("/etcd") if entry.owner else "root" + entry.path)
        if entry.content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.content)
        path.chmod(entry.mode)


def build_arguments(project: Project, release: Release) -> list[str]:
    """What Dockerfile.scratch wants to be told."""
    told = {"VERSION": project.version, "REVISION": project.revision, "SOURCE": project.source, "ETCD_VERSION": release.version}
    return [word for name, value in told.items() for word in ("--build-arg", f"{name}={value}")]
