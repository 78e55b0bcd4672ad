"""Docker, as far as the tests need it. All they make bears a name of their own, by which it is removed: by the run that made it, or,
if that was killed, by the next one."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from archives import Archive

LABEL = "etcd-muster.test"
PREFIX = "etcd-muster-test-"
LOCKS = Path("/var/tmp")  # not emptied by a reboot, which containers live through as well
BOUND = 120  # seconds; a busy engine's slowest answer, not a wait for a condition


def missing() -> str | None:
    """Why nothing can be run in containers here."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    done = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=BOUND)
    return None if done.returncode == 0 else f"no Docker engine answers: {done.stderr.strip().splitlines()[-1]}"


def docker(
    *arguments: object, stdin: bytes | None = None, env: dict[str, str] | None = None, stderr_too: bool = False
) -> str:
    """What it prints; what it says of a failure is the assertion's message."""
    command = ["docker", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, env=env, capture_output=True, timeout=BOUND)
    output = done.stdout + done.stderr if stderr_too else done.stdout
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
    return output.decode(errors="replace").strip()


class Engine:
    def __init__(self) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(6)}"
        self.label = f"{LABEL}={self.name}"
        self._tags = 0
        self._path = LOCKS / f"{self.name}.lock"

    def __enter__(self) -> Engine:
        remove_what_dead_runs_left()
        self._lock = tempfile.NamedTemporaryFile(dir=LOCKS, delete=False)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(self._lock.name, self._path)  # under that name nobody sees it unlocked while this process lives
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            remove(self.name)
            self._path.unlink()

    def load(self, image: Archive) -> str:
        """That image, under a tag of ours: one that bears its own name already may be the machine's owner's."""
        tag = self._tag()
        again = io.BytesIO()
        with tarfile.open(image.path) as archive, tarfile.open(fileobj=again, mode="w") as written:
            for member in archive:
                content = archive.extractfile(member).read() if member.isfile() else b""
                if member.name in ("manifest.json", "index.json"):  # the classic store's, and containerd's
                    content = content.replace(image.manifest["RepoTags"][0].encode(), tag.encode())
                member.size = len(content)
                written.addfile(member, io.BytesIO(content))
        docker("load", stdin=again.getvalue())
        return tag

    def build(self, *arguments: object, stdin: bytes | None = None, buildkit: bool = False) -> str:
        """`docker build` of this; the tag that it is given. The label is left to what uses the image: it is part of it."""
        tag = self._tag()
        env = {**os.environ, "DOCKER_BUILDKIT": str(int(buildkit))}
        docker("build", "--force-rm", "--tag", tag, *arguments, stdin=stdin, env=env)
        return tag

    def _tag(self) -> str:
        self._tags += 1
        return f"{self.name}:{self._tags}"


def remove(name: str) -> None:
    """All that bears it, containers before what they use. What can't be removed doesn't keep the rest."""
    failures = []
    for listing, removal in (
        (("ps", "--all", "--quiet", "--filter", f"label={LABEL}={name}"), ("rm", "--force", "--volumes")),
        (("volume", "ls", "--quiet", "--filter", f"label={LABEL}={name}"), ("volume", "rm")),
        (("network", "ls", "--quiet", "--filter", f"label={LABEL}={name}"), ("network", "rm")),
        (("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={name}"), ("rmi",)),
    ):
        try:
            found = docker(*listing).split()
            if found:
                docker(*removal, *sorted(found, reverse=True))  # an image before the one that it is made from
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)


def remove_what_dead_runs_left() -> None:
    """Of those whose lock is free: their process is gone. Where there is no lock nothing is known, and nothing is touched."""
    for path in LOCKS.glob(f"{PREFIX}*.lock"):
        with suppress(OSError), path.open() as lock:  # another user's, or a run that lives
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                remove(path.stem)
                path.unlink()
            except AssertionError as failure:
                warnings.warn(f"a dead run's {path.stem} can't be removed: {failure}", stacklevel=2)
