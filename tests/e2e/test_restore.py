"""A lost fleet: no empty cluster beside snapshots, and the way back from one."""

from __future__ import annotations

import json

import pytest
from authentication import form_guarded
from fleet import BOUND, QUICK, command, form, launch, leader_of, mark, said, start, stop, wait_formed, wait_looks, wait_said
from muster_tools.lab.ec2 import NODE_ACTIONS

BUCKET = "backups"
PREFIX = "etcd/blue"
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket")
BUMP = 1_000_000_000


@pytest.fixture
def share(lab, tmp_path):
    """A directory that all hosts have; snapshots by hand only."""
    made = tmp_path / "share"
    made.mkdir()
    lab.env |= QUICK | {"MUSTER_SNAPSHOTS": f"file:{made}", "MUSTER_SNAPSHOT_EVERY": "0"}
    return made


@pytest.fixture
def bucket(lab):
    s3 = lab.ec2.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
    lab.env |= QUICK | {"MUSTER_SNAPSHOTS": f"s3://{BUCKET}/{PREFIX}", "MUSTER_SNAPSHOT_EVERY": "0"}
    return s3


def saved(lab, node) -> None:
    done = command(lab, node, "snapshot", "save")
    assert done.returncode == 0, done.stdout + done.stderr


def lose(lab, nodes) -> None:
    """The instances, with their disks."""
    for node in nodes:
        lab.terminate(node)


def plan_of(lab, node, *arguments: str) -> dict:
    done = command(lab, node, "restore", "--json", *arguments)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def ready_plan(lab, node, *arguments: str) -> dict:
    """Once all say that they are fresh."""

    def ready() -> dict | None:
        plan = plan_of(lab, node, *arguments)
        return plan if plan["obstacle"] is None else None

    return lab.wait(ready, BOUND, "a plan without an obstacle")


def restore(lab, node, *arguments: str):
    plan = ready_plan(lab, node, *arguments)
    done = command(lab, node, "restore", *arguments, "--yes", plan["plan"])
    assert done.returncode == 0, done.stdout + done.stderr
    return plan, done


def manifests(share) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(share.glob("[0-9a-f]*/*.json"))]


@pytest.mark.core
def test_a_lost_fleet_holds_beside_its_snapshots_and_comes_back_by_an_order(lab, bucket, etcd_version):
    # Until 3.5.9 etcd's tool can't raise revisions.
    raises = tuple(int(part) for part in etcd_version.split(".")) >= (3, 5, 10)
    told = () if raises else ("--no-bump",)
    old = form(lab, 3, size=3)
    before = old[0].etcd.cluster_id()
    for number in range(20):
        old[0].etcd.put(f"key-{number}", str(number))
    saved(lab, old[1])
    old[0].etcd.put("later", "lost")
    lose(lab, old)
    new = launch(lab, 3)
    start(*new)
    for node in new:
        wait_said(lab, node, "hold: ")
    seen = lab.wait(lambda: next((node for node in new if said(node, "so a cluster was")), None), BOUND, "the hold")
    line = said(seen, "so a cluster was")
    assert f"s3://{BUCKET}/{PREFIX} has 1 snapshot(s)" in line and "etcd-muster restore" in line, line
    if not raises:
        unfit = lab.wait(lambda: (why := plan_of(lab, new[2])["obstacle"]) and "can't raise revisions" in why and why, BOUND, "the obstacle")
        assert "--no-bump" in unfit
    plan, done = restore(lab, new[2], *told)
    assert plan["manifest"]["cluster"] == f"{int(before, 16):016x}"
    after = wait_formed(lab, *new)
    assert after != before and after in done.stdout
    for node in new:
        assert node.etcd.get("key-19") == "19" and node.etcd.get("later") is None
        assert said(node, "restored s3://") and not said(node, "quarantine")
    assert (int(new[0].etcd.status()["header"]["revision"]) > BUMP) == raises
    new[0].etcd.put("after", "1")
    assert new[2].etcd.get("after") == "1"
    # What is stored from now on says from where the cluster came.
    saved(lab, new[0])
    found = bucket.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/{int(after, 16):016x}/")["Contents"]
    key = next(entry["Key"] for entry in found if entry["Key"].endswith(".json"))
    stored = json.loads(bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    assert stored["parent"] == f"{int(before, 16):016x}"


def test_an_order_is_not_carried_out_again_once_its_cluster_left_snapshots(lab, share):
    """The same instances lose their disks later: what was ordered then would take them back to before all that was written since."""
    old = form(lab, 2, size=2)
    old[0].etcd.put("age", "old")
    saved(lab, old[0])
    lose(lab, old)
    new = launch(lab, 2)
    start(*new)
    restore(lab, new[0])
    wait_formed(lab, *new)
    new[0].etcd.put("age", "new")
    saved(lab, new[0])
    for node in new:
        stop(node)
    since = {node: mark(node) for node in new}
    for node in new:
        node.wipe()
    start(*new)
    seen = lab.wait(lambda: next((node for node in new if said(node, "so a cluster was", since=since[node])), None), BOUND, "the hold")
    wait_looks(lab, seen)
    assert not any(said(node, "restoring", since=since[node]) for node in new)
    # By default the newest one of the youngest cluster is ordered.
    restore(lab, new[0])
    wait_formed(lab, *new)
    assert new[0].etcd.get("age") == "new"
