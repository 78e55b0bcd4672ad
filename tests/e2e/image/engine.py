"""Docker, as far as the tests need it. All they make bears a label of their own, by which it is removed."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import subprocess
import tarfile

from archives import Archive

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
        self.name = f"etcd-muster-test-{secrets.token_hex(6)}"
        self.label = f"etcd-muster.test={self.name}"
        self._tags: list[str] = []

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        """Containers before what they use."""
        for listing, removal in (
            (("ps", "--all"), ("rm", "--force", "--volumes")),
            (("volume", "ls"), ("volume", "rm")),
            (("network", "ls"), ("network", "rm")),
        ):
            found = docker(*listing, "--quiet", "--filter", f"label={self.label}").split()
            if found:
                docker(*removal, *found)
        if self._tags:
            docker("rmi", *reversed(self._tags))

    def load(self, image: Archive) -> str:
        """That image, under a tag of ours: one that bears its own name already may be the machine's owner's."""
        tag = self._tag()
        again = io.BytesIO()
        with tarfile.open(image.path) as archive, tarfile.open(fileobj=again, mode="w") as written:
            for member in archive:
                content = archive.extractfile(member).read() if member.isfile() else b""
                if member.name == "manifest.json":
                    content = content.replace(image.manifest["RepoTags"][0].encode(), tag.encode())
                member.size = len(content)
                written.addfile(member, io.BytesIO(content))
        docker("load", stdin=again.getvalue())
        self._tags.append(tag)
        return tag

    def build(self, *arguments: object, stdin: bytes | None = None, buildkit: bool = False) -> str:
        """`docker build` of this; the tag that it is given. The label is left to what uses the image: it is part of it."""
        tag = self._tag()
        env = {**os.environ, "DOCKER_BUILDKIT": str(int(buildkit))}
        docker("build", "--tag", tag, *arguments, stdin=stdin, env=env)
        self._tags.append(tag)
        return tag

    def _tag(self) -> str:
        return f"{self.name}:{len(self._tags)}"
