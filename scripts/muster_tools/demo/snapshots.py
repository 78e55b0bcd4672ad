"""The last act: a snapshot of the cluster goes to the emulated S3 and to a directory, is listed there and read back."""

from __future__ import annotations

import subprocess

from muster_tools.demo.ending import Failed
from muster_tools.demo.progress import first_line
from muster_tools.demo.stage import Actor
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.instance import REGION
from muster_tools.lab.node import Lab

BUCKET, PREFIX = "demo-backups", "etcd"
RIGHTS = ("s3:PutObject", "s3:GetObject", "s3:ListBucket")
COMMAND_BOUND_SECONDS = 30  # each takes a tenth of a second


class Places:
    """A bucket and a directory, both gone with the lab."""

    def __init__(self, lab: Lab):
        self._lab = lab
        self._share = lab.directory / "snapshots"

    def make(self) -> None:
        s3 = self._lab.ec2.client("s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self._lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
        self._share.mkdir()

    def ask(self, actor: Actor, what: str) -> list[str]:
        """`etcd-muster snapshot` on that node, and what it prints."""
        given = {**actor.node.environment(), "MUSTER_SNAPSHOTS": f"s3://{BUCKET}/{PREFIX},file:{self._share}"}
        command = [str(self._lab.muster), "snapshot", what]
        try:
            done = subprocess.run(
                command, env=given, cwd=actor.node.directory, capture_output=True, text=True, timeout=COMMAND_BOUND_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"snapshot {what} did not end within {COMMAND_BOUND_SECONDS} s") from error
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise Failed(f"snapshot {what} ended with {done.returncode}: {first_line(said)}")
        return done.stdout.splitlines()
