"""An image's file as an engine reads it, and the scripts that write such files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
ETCD = "3.5.1"  # the only static one that the package registries hold
SOURCE = "https://example.org/etcd-muster"
SCRIPT_BOUND = 300  # seconds


class Archive:
    """`docker save`'s format, whoever wrote it."""

    def __init__(self, path: Path):
        self.path = path
        with tarfile.open(path) as archive:
            self.blobs = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
        (self.manifest,) = json.loads(self.blobs["manifest.json"])
        self.about = json.loads(self.blobs[self.manifest["Config"]])
        self.config = {key: value for key, value in self.about["config"].items() if value not in ("", None, False)}
        self.config.pop("Image", None)  # the classic builder's own note of where it came from

    def entries(self) -> dict[str, tuple[int, int, int, bytes | None]]:
        """Mode, owner, group and content (None: a directory) by path, of all layers together."""
        found = {}
        for layer in self.manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(self.blobs[layer])) as archive:
                for member in archive:
                    assert member.isfile() or member.isdir(), member
                    content = archive.extractfile(member).read() if member.isfile() else None
                    found["/" + member.name.strip("/")] = (member.mode & 0o7777, member.uid, member.gid, content)
        return found


def run_script(name: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """With none of the caller's settings that would change what it makes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ETCD_", "SOURCE_DATE"))}
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, env=kept | env, capture_output=True, text=True, timeout=SCRIPT_BOUND)
