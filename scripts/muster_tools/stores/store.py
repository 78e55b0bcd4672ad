"""A store that runs: where it is, and with whose keys."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass

import boto3
from botocore.config import Config

BOUND = 60  # seconds
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Store:
    url: str
    key: str = "AKIDSTORES0000000000"
    secret: str = "a-secret-of-forty-characters-for-a-store"
    bucket: str = "claims"
    region: str = "us-east-1"


def make_bucket(store: Store) -> None:
    config = Config(proxies={}, s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": store.key, "aws_secret_access_key": store.secret}
    s3 = boto3.client("s3", endpoint_url=store.url, region_name=store.region, config=config, **keys)
    s3.create_bucket(Bucket=store.bucket)


def wait_listening(address: str, port: int, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + BOUND
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError as error:
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{child.args[0]}: nobody listens at {address}:{port}: {error}") from None
        time.sleep(POLL_SECONDS)
