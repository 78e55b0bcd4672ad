"""The store's side: an S3 over a folder in memory, so that no disk of its own slows what is measured. It is rclone's own server."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from muster_tools.bench import peers
from muster_tools.bench.measure import Failed, must
from muster_tools.lab.process import Process

REGION = "eu-west-1"
KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BUCKET = "snapshots"
MEMORY = Path("/dev/shm")
START_BOUND_SECONDS = 20


class Store:
    """One bucket. It checks signatures and Content-MD5, and keeps no metadata."""

    def __init__(self, address: str, most_bytes: int):
        self._address, self._most_bytes = address, most_bytes
        self.url = ""

    def __enter__(self) -> Store:
        program = peers.rclone()
        self._folder = Path(tempfile.mkdtemp(prefix="etcd-muster-bench-", dir=self._place()))
        self.empty()
        port = free_port(self._address)
        self.url = f"http://{self._address}:{port}"
        command = [str(program), "serve", "s3", "--addr", f"{self._address}:{port}", "--auth-key", f"{KEY_ID},{SECRET}", "objects"]
        own = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        self._process = Process(command, own, self._folder, self._folder / "log")
        try:
            must(lambda: _answers(self._address, port), "rclone's server", START_BOUND_SECONDS)
        except Failed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()
        shutil.rmtree(self._folder)

    def empty(self) -> None:
        shutil.rmtree(self._folder / "objects", ignore_errors=True)
        (self._folder / "objects" / BUCKET).mkdir(parents=True)

    def environment(self) -> dict[str, str]:
        return environment(self.url)

    def _place(self) -> Path | None:
        """Where there is no such memory, on the disk."""
        has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * self._most_bytes
        return MEMORY if has_room else None


def environment(url: str) -> dict[str, str]:
    """For awscli; and for ours, which reads the same variables."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        return listener.getsockname()[1]


def _answers(address: str, port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((address, port)) == 0
