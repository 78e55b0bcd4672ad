"""A lost fleet: no empty cluster beside snapshots, and the way back from one."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
from fleet import BOUND, IS_ROOT, QUICK, command, form, launch, mark, said, small_disk, start, stop, tree, used, wait_formed, wait_looks, wait_said
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.etcd import NOT_YET

BUCKET = "backups"
PREFIX = "etcd/blue"
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket")
BUMP = 1_000_000_000
# Each is one way through the moments of a restore at which a machine may die.
SEEDS = range(int(os.environ.get("RESTORE_SEEDS", "6")))


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
    """In the end: in a fleet that has just started, one may say between the plan and the order that it has to wait for something else."""

    def restored():
        plan = ready_plan(lab, node, *(word for word in arguments if word != "--json"))
        done = command(lab, node, "restore", *arguments, "--yes", plan["plan"])
        has_obstacle = "not now  " in done.stdout or '"obstacle": "' in done.stdout
        assert (done.returncode == 0) != has_obstacle, done.stdout + done.stderr
        return None if has_obstacle else (plan, done)

    return lab.wait(restored, BOUND, "an order")


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


# Bad days.


def lost_cluster(lab, **env: str) -> str:
    """One that left a snapshot with the key `kept`; its id, as snapshots are named."""
    (old,) = form(lab, 1, size=1, **env)
    old.etcd.put("kept", "1")
    saved(lab, old)
    cluster = f"{int(old.etcd.cluster_id(), 16):016x}"
    lose(lab, [old])
    return cluster


def ordered(lab, node, *arguments: str) -> None:
    """Nobody watches it."""
    restore(lab, node, "--json", *arguments)


def refused(lab, node, *why: str) -> None:
    """In the end for that reason; what is ordered all the same is not written."""
    obstacles: list[str | None] = [None]

    def plan() -> dict | None:
        found = plan_of(lab, node)
        obstacles.append(found["obstacle"])
        return found if all(part in (found["obstacle"] or "") for part in why) else None

    try:
        found = lab.wait(plan, BOUND, f"refusal because: {why}")
    except AssertionError as error:
        raise AssertionError(f"refused because: {obstacles[-1]}") from error
    done = command(lab, node, "restore", "--yes", found["plan"])
    assert done.returncode == 1 and "ordered" not in done.stdout, done.stdout + done.stderr


def is_restored(*nodes) -> None:
    for node in nodes:
        assert node.etcd.get("kept") == "1"
        assert int(node.etcd.status()["header"]["revision"]) > BUMP
        # What a machine that died had moved into place by half is begun anew; nothing that was ever started is.
        assert not [path for path in node.directory.rglob("*.wal") if "quarantine-" in str(path)]


def founded(node) -> set[str]:
    """The ids of all clusters of which an etcd on this node ever was a member, as its log has them."""
    return set(re.findall(r'"cluster-id":"([0-9a-f]+)"', node.log_text()))


def started(*nodes) -> bool:
    return any(node.etcd_pids() or founded(node) for node in nodes)


def test_a_seed_is_restored_without_a_person_once_its_snapshot_is_verified(lab, share):
    cluster = lost_cluster(lab)
    (manifest,) = share.glob(f"{cluster}/*.json")
    unverified = json.loads(manifest.read_text())
    del unverified["verified"]
    manifest.write_text(json.dumps(unverified))
    new = launch(lab, 3, size=3, MUSTER_SEED=f"file:{share}")
    start(*new)
    held = lab.wait(lambda: next((node for node in new if said(node, "is verified;")), None), BOUND, "the hold")
    assert said(held, "hold: ", "what is to be restored", f"MUSTER_SEED=file:{share}"), said(held, "hold: ")
    status = command(lab, held, "status", "--json")
    assert "seed_unknown" in status.stdout, status.stdout
    wait_looks(lab, *new)
    assert not started(*new)
    done = command(lab, new[0], "snapshot", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_formed(lab, *new)
    is_restored(*new)
    assert not list(share.glob("restore-orders/*"))


def test_what_is_encrypted_here_needs_its_key_and_who_has_another_gets_the_data_from_the_others(lab, share, tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(bytes(range(32)))
    wrong.write_bytes(bytes(range(32, 64)))
    cluster = lost_cluster(lab, MUSTER_SNAPSHOT_KEY=str(right))
    (data,) = share.glob(f"{cluster}/*.db*")
    assert b"kept" not in data.read_bytes()
    new = launch(lab, 3, size=3)
    other = new[1]
    other.env["MUSTER_SNAPSHOT_KEY"] = str(wrong)
    start(*new)
    ordered(lab, new[0])
    wait_said(lab, other, "it is encrypted with the key", "this one is")
    wait_formed(lab, *new)
    is_restored(*new)
    assert not said(other, "restored file:") and all(said(node, "restored file:") for node in (new[0], new[2]))


def test_a_damaged_snapshot_is_used_by_nobody_until_the_original_is_back(lab, share):
    cluster = lost_cluster(lab)
    (data,) = share.glob(f"{cluster}/*.db")
    original = data.read_bytes()
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 1
    new = launch(lab, 3, size=3)
    start(*new)
    # The manifest is what it was: the plan can't see it.
    ready_plan(lab, new[0])
    data.write_bytes(damaged)
    ordered(lab, new[0])
    for node in new:
        wait_said(lab, node, "has the SHA-256", "put the original back")
    # Each further look is a further attempt, after a pause that doubles.
    wait_looks(lab, *new, more=1)
    assert not started(*new)
    data.write_bytes(original)
    wait_formed(lab, *new)
    is_restored(*new)


def test_one_of_three_that_is_given_other_bytes_uses_none_of_them(lab, bucket):
    """A cache or a replica of the store that lies to one host. What the others restored is what it then gets from them."""
    lost_cluster(lab)
    new = launch(lab, 3, size=3)
    deceived = new[1]
    deceived.front.add(with_a_bit_flipped(".db"), action="GET")
    start(*new)
    ordered(lab, new[0])
    wait_said(lab, deceived, "has the SHA-256", "was agreed on")
    cluster = wait_formed(lab, *new)
    is_restored(*new)
    assert not said(deceived, "restored s3://") and founded(deceived) == {cluster}


def with_a_bit_flipped(key: str):
    def rule(call, proceed):
        answer = proceed()
        if answer.status == 200 and call.request.target.partition("?")[0].endswith(key):
            middle = len(answer.body) // 2
            flipped = bytes([answer.body[middle] ^ 1])
            return replace(answer, body=answer.body[:middle] + flipped + answer.body[middle + 1 :])
        return answer

    return rule


def test_one_without_etcds_tool_gets_the_data_from_the_others(lab, share):
    lost_cluster(lab)
    new = launch(lab, 3, size=3)
    without = new[2]
    alone = without.directory / "alone"
    alone.mkdir()
    shutil.copy(lab.etcd_binary, alone / "etcd")
    without.install_etcd(alone / "etcd")
    start(*new)
    ordered(lab, new[0])
    wait_said(lab, without, "etcdutl is not there")
    wait_formed(lab, *new)
    is_restored(*new)
    assert not said(without, "restored file:")


def test_what_a_tool_left_half_done_is_never_started(lab, share):
    """On all three, so that nobody can give the others what they lack."""
    lost_cluster(lab)
    new = launch(lab, 3, size=3)
    # It gets the directory, writes into it, and fails, as on a full disk.
    script = """for word; do case $word in --data-dir=*) into=${word#--data-dir=};; --data-dir) take=1;; *) [ "$take" ] && into=$word; take=;; esac; done
mkdir -p "$into/member/snap" "$into/member/wal" && echo half > "$into/member/snap/db" && echo "wrote half" >> "$0.calls"
echo 'no more room' >&2; exit 1
"""
    for node in new:
        tool = node.program.with_name("etcdutl")
        tool.write_text(f"#!/bin/sh\n{script}")
        tool.chmod(0o755)
    start(*new)
    ordered(lab, new[0])
    for node in new:
        wait_said(lab, node, "etcdutl", "no more room")
    wait_looks(lab, *new, more=1)
    assert not started(*new)
    for node in new:
        assert (node.program.with_name("etcdutl.calls")).read_text()
        # An attempt may be under way; what it begins is removed with it.
        lab.wait(lambda: not list(node.directory.rglob("member/snap/db")), BOUND, "nothing of an attempt left")
        assert not (node.data / "member").exists()
        node.program.with_name("etcdutl").unlink()
    wait_formed(lab, *new)
    is_restored(*new)


@pytest.mark.skipif(not IS_ROOT, reason="mounts disks")
@pytest.mark.parametrize("stage", ["before", "before, the WAL's", "fetching", "restoring"])
def test_a_disk_that_is_full_at_any_stage_is_named_and_got_over(lab, bucket, stage):
    """On all three, so that nobody can give the others what they lack."""
    lost_cluster(lab)
    new = launch(lab, 3, size=3)
    go = new[0].directory / "go"
    begun, go_on = set(), threading.Event()
    is_small = stage.startswith("before")
    small = (lambda node: node.wal) if "WAL" in stage else (lambda node: node.data)
    with ExitStack() as disks:
        resizes = [disks.enter_context(small_disk(small(node), "48m" if is_small else "512m")) for node in new]
        for node in new:
            if stage == "restoring":
                slow_tool(lab, node, before=f'touch "$0.begun"; until [ -e {go} ]; do sleep 0.05; done')
            if stage == "fetching":
                node.front.add(held_back(".db", node, begun, go_on), action="GET")
        start(*new)
        ordered(lab, new[0])
        if not is_small:
            is_begun = lambda node: node in begun or node.program.with_name("etcdutl.begun").exists()
            lab.wait(lambda: all(is_begun(node) for node in new), BOUND, f"all to be {stage}")
            for node, resize in zip(new, resizes):
                resize(used(node.data))
        go.touch()
        go_on.set()
        for node in new:
            wait_said(lab, node, "hold: ", "free")
        wait_looks(lab, *new, more=1)
        assert not started(*new)
        for resize in resizes:
            resize("512m")
        wait_formed(lab, *new)
        is_restored(*new)
        for node in new:
            node.power_off()


def held_back(key: str, node, begun: set, go_on: threading.Event):
    """The store answers such a request later."""

    def rule(call, proceed):
        if call.request.target.partition("?")[0].endswith(key):
            begun.add(node)
            go_on.wait(BOUND)
        return proceed()

    return rule


def test_an_order_is_refused_while_anything_may_be_the_old_cluster(lab, share):
    old = form(lab, 3, size=3)
    old[0].etcd.put("kept", "1")
    saved(lab, old[0])
    refused(lab, old[0], "this node has etcd's data")
    (fresh,) = launch(lab, 1)
    refused(lab, fresh, "has all its 3 members")
    survivor, *gone = old
    lose(lab, gone[:1])
    refused(lab, fresh, "a cluster with a quorum answers")
    lose(lab, gone[1:])
    (second,) = launch(lab, 1)
    start(fresh, second)
    # An etcd that has no quorum.
    refused(lab, fresh, survivor.instance.id)
    # Nobody knows what its disk has.
    stop(survivor)
    refused(lab, fresh, survivor.instance.id)
    # No etcd runs, and there is data, whatever it is.
    lose(lab, [survivor])
    (third,) = launch(lab, 1)
    (third.data / "member" / "snap").mkdir(parents=True)
    (third.data / "member" / "snap" / "db").write_text("from somewhere")
    third.start()
    wait_said(lab, third, "hold: ")
    refused(lab, fresh, third.instance.id)
    assert not list(share.glob("restore-orders/*"))
    # What an operator moves away is no obstacle any more.
    stop(third)
    third.wipe()
    third.start()
    ordered(lab, fresh)
    wait_formed(lab, fresh, second, third)
    is_restored(fresh, second, third)


def test_two_orders_at_once_make_one_cluster(lab, share):
    lost_cluster(lab)
    new = launch(lab, 3, size=3)
    start(*new)
    wait_looks(lab, *new)
    plans = [ready_plan(lab, new[0])["plan"], ready_plan(lab, new[1], "--no-bump")["plan"]]
    assert plans[0] != plans[1]
    with ThreadPoolExecutor() as both:
        first = both.submit(command, lab, new[0], "restore", "--json", "--yes", plans[0])
        second = both.submit(command, lab, new[1], "restore", "--json", "--no-bump", "--yes", plans[1])
    # One that comes when first members are agreed on is refused.
    assert 0 in [done.result().returncode for done in (first, second)], (first.result(), second.result())
    wait_formed(lab, *new)
    assert all(node.etcd.get("kept") == "1" for node in new)
    assert len({seen for node in new for seen in founded(node)}) == 1
    assert len({int(node.etcd.status()["header"]["revision"]) > BUMP for node in new}) == 1


def slow_tool(lab, node, before: str = "sleep 0.2") -> None:
    """The real one, with time to die before it and after it: what is restored here is small."""
    tool = node.program.with_name("etcdutl")
    real = lab.etcd_binary.with_name("etcdutl")
    tool.write_text(f'#!/bin/sh\n{before}\n{real} "$@" || exit\nsleep 0.2\n')
    tool.chmod(0o755)


def test_an_order_that_comes_while_another_one_is_carried_out_changes_nothing(lab, share):
    lost_cluster(lab)
    new = launch(lab, 3, size=3)
    go = share.parent / "go"
    for node in new:
        slow_tool(lab, node, before=f"until [ -e {go} ]; do sleep 0.05; done")
    start(*new)
    later = ready_plan(lab, new[1], "--no-bump")["plan"]
    ordered(lab, new[0])
    for node in new:
        wait_said(lab, node, "restoring file:")
    done = command(lab, new[1], "restore", "--no-bump", "--yes", later)
    assert done.returncode == 1 and "ordered" not in done.stdout, done.stdout + done.stderr
    # Written all the same, as by somebody who looked a moment earlier; and one host begins anew with it in sight.
    (first,) = share.glob("restore-orders/*")
    order = json.loads(first.read_text())
    order["seed"]["bump"] = 0
    (first.parent / f"{first.stem.partition('-')[0]}-ffffffffffff.json").write_text(json.dumps(order))
    new[2].power_off()
    since = mark(new[2])
    new[2].start()
    wait_said(lab, new[2], "restoring file:", since=since)
    go.touch()
    after = wait_formed(lab, *new)
    is_restored(*new)
    assert {seen for node in new for seen in founded(node)} == {after}


def written(node, key: str) -> bool:
    """Whether etcd acknowledged it."""
    with suppress(*NOT_YET):
        node.etcd.put(key, "1")
        return True
    return False


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_that_die_during_a_restore_lose_nothing_and_make_one_cluster(lab, share, seed):
    chance = random.Random(seed)
    cluster = lost_cluster(lab)
    before = tree(share / cluster)
    new = launch(lab, 3, size=3)
    for node in new:
        slow_tool(lab, node)
    start(*new)
    ordered(lab, new[0])
    acknowledged = ["kept"]
    for number in range(8):
        time.sleep(chance.uniform(0, 0.6))
        dying = new if chance.random() < 0.2 else chance.sample(new, chance.choice((1, 1, 2)))
        for node in dying:
            node.power_off()
        time.sleep(chance.choice((0, 0, 0.3)))
        for node in dying:
            node.start()
        if number > 4 and written(chance.choice(new), f"key-{number}"):
            acknowledged.append(f"key-{number}")
    after = wait_formed(lab, *new)
    is_restored(*new)
    assert [node.etcd.get(key) for node in new for key in acknowledged] == ["1"] * len(new) * len(acknowledged)
    assert {seen for node in new for seen in founded(node)} == {after}, "a cluster beside it was founded"
    assert len(list(share.glob("restore-orders/*"))) == 1
    assert tree(share / cluster) == before, "snapshots are only read"
