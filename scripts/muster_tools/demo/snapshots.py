"""Snapshots of the demo's cluster, in the emulated S3 and in a directory, and the commands about them."""

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
COMMAND_BOUND_SECONDS = 60  # each takes a tenth of a second, and a restore a second or two


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
        code, lines = run(self._lab, actor, ["snapshot", what], f"s3://{BUCKET}/{PREFIX},file:{self._share}")
        if code != 0:
            raise Failed(f"snapshot {what} ended with {code}: {first_line(' '.join(lines))}")
        return lines


def run(lab: Lab, actor: Actor, words: list[str], places: str = f"s3://{BUCKET}/{PREFIX}") -> tuple[int, list[str]]:
    """That command of etcd-muster on that node: its exit code, and what it prints."""
    given = {**actor.node.environment(), "MUSTER_SNAPSHOTS": places}
    try:
        done = subprocess.run(
            [str(lab.muster), *words], env=given, cwd=actor.node.directory, capture_output=True, text=True, timeout=COMMAND_BOUND_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(words)} did not end within {COMMAND_BOUND_SECONDS} s") from error
    return done.returncode, (done.stdout + done.stderr).splitlines()
