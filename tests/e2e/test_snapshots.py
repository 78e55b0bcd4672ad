"""MUSTER_SNAPSHOTS: the leader's supervisor takes them, proves them where they are stored, and deletes only what it may."""

from __future__ import annotations

import json

import pytest
from authentication import form_guarded
from fleet import BOUND, command, form, leader_of, said, stop, wait_formed, wait_said
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.security import AUTO, FILES, MINTED, PLAIN, Security

BUCKET = "backups"
PREFIX = "etcd/blue"
TRIAL_BOUND = 180  # seconds: two programs of etcd, at the lowest priority
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket")


@pytest.fixture
def share(lab, tmp_path):
    """A directory; snapshots every second."""
    made = tmp_path / "share"
    made.mkdir()
    lab.env |= {"MUSTER_SNAPSHOTS": f"file:{made}", "MUSTER_SNAPSHOT_EVERY": "1s"}
    return made


@pytest.fixture
def places(lab, share):
    """The same, and a bucket, as an administrator sees it."""
    s3 = lab.ec2.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS, "s3:DeleteObject")
    lab.env["MUSTER_SNAPSHOTS"] = f"s3://{BUCKET}/{PREFIX},file:{share}"
    return s3, share


def in_bucket(s3, suffix: str = ".json") -> list[str]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX).get("Contents", [])
    return sorted(entry["Key"].removeprefix(f"{PREFIX}/") for entry in found if entry["Key"].endswith(suffix))


def in_share(share, suffix: str = ".json") -> list[str]:
    return sorted(str(path.relative_to(share)) for path in share.rglob(f"*{suffix}"))


def manifest(s3, key: str) -> dict:
    return json.loads(s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{key}")["Body"].read())


def listed(lab, node, *arguments: str) -> list[dict]:
    done = command(lab, node, "snapshot", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_leader_stores_snapshots_in_a_bucket_and_a_directory_and_proves_them(lab, places):
    s3, share = places
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    leader.etcd.put("before", "1")
    lab.wait(lambda: in_bucket(s3) and in_share(share), BOUND, "a snapshot at both places")
    wait_said(lab, leader, f"snapshot: verified s3://{BUCKET}/{PREFIX}/")
    wait_said(lab, leader, f"snapshot: verified file:{share}/")
    assert not any(said(node, "snapshot: ") for node in nodes if node is not leader), "only the leader takes them"
    key = in_bucket(s3)[0]
    written = manifest(s3, key)
    assert written["cluster"] == f"{int(leader.etcd.cluster_id(), 16):016x}"
    assert written["reason"] == "scheduled" and written["hash_kv"] and len(written["members"]) == 3
    for place in listed(lab, leader):
        newest = place["snapshots"][0]
        assert newest["manifest"]["verified"]["level"] == "digest", place
        assert newest["name"].startswith(written["cluster"])
    verified = command(lab, leader, "snapshot", "verify")
    assert verified.returncode == 0 and verified.stdout.count("verified ") == 2, verified.stdout + verified.stderr


def test_an_idle_cluster_has_one_snapshot_that_is_proved_again(lab, places):
    s3, _ = places
    (node,) = form(lab, 1, size=1)
    wait_said(lab, node, "snapshot: nothing has changed since s3://")
    count = len(in_bucket(s3))
    first = manifest(s3, in_bucket(s3)[-1])["verified"]["at"]
    lab.wait(lambda: manifest(s3, in_bucket(s3)[-1])["verified"]["at"] != first, BOUND, "another proof")
    assert len(in_bucket(s3)) == count


def test_one_taken_by_hand_stays_and_scheduled_ones_are_pruned(lab, places):
    s3, share = places
    lab.env["MUSTER_SNAPSHOT_KEEP"] = "1h"
    (node,) = form(lab, 1, size=1)
    done = command(lab, node, "snapshot", "save", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    by_hand = json.loads(done.stdout)[0]["name"]
    for number in range(8):
        node.etcd.put("key", str(number))
        revision = node.etcd.status()["header"]["revision"]
        lab.wait(lambda: any(f"/{int(revision):020}-" in f"/{key.split('/')[1]}" for key in in_bucket(s3)), BOUND, f"revision {revision}")
    wait_said(lab, node, "snapshot: deleted ")
    # The newest of the hour, and the newest three that are verified; and the one by hand.
    lab.wait(lambda: len(in_bucket(s3)) <= 4, BOUND, "the superseded ones gone")
    assert f"{by_hand}.json" in in_bucket(s3) and f"{by_hand}.json" in in_share(share)
    assert len(in_bucket(s3)) >= 3 and len(in_bucket(s3, ".db")) >= len(in_bucket(s3))
    plan = command(lab, node, "snapshot", "prune")
    assert plan.returncode == 0 and f"{by_hand}.json: it was not scheduled but by-hand" in plan.stdout, plan.stdout + plan.stderr


def test_a_follower_restores_the_newest_on_trial_and_compares_its_keys(lab, places, tmp_path):
    s3, _ = places
    lab.env["MUSTER_SNAPSHOT_VERIFY"] = "restore"
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    lab.env["MUSTER_SNAPSHOT_KEY"] = str(key)
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    leader.etcd.put("before", "1")
    lab.wait(lambda: any(said(node, "(restored on trial, its keys compared)") for node in nodes), TRIAL_BOUND, "a restore on trial")
    assert "restore" in [manifest(s3, name).get("verified", {}).get("level") for name in in_bucket(s3)]
    assert all(node.etcd.health() for node in nodes)


def test_what_is_restored_on_trial_must_have_the_manifests_keys(lab, share):
    (node,) = form(lab, 1, size=1)
    node.etcd.put("before", "1")
    wait_said(lab, node, f"snapshot: verified file:{share}/")
    stop(node)
    newest = share / in_share(share)[-1]
    forged = json.loads(newest.read_text())
    forged["hash_kv"]["hash"] ^= 1
    newest.write_text(json.dumps(forged))
    node.env |= {"MUSTER_SNAPSHOT_EVERY": "1h", "MUSTER_SNAPSHOT_VERIFY": "restore"}
    node.start()
    lab.wait(lambda: said(node, "its keys have the hash"), TRIAL_BOUND, "another hash than the manifest's")
    assert not json.loads(newest.read_text()).get("verified") and node.etcd.health()


# Ways to etcd: gRPC has its own connection, its own verification and its own header for the token.


def saved_and_scheduled(lab, node, share) -> dict:
    """The supervisor's own snapshot is proved, and so is one taken by hand; the manifest of that."""
    wait_said(lab, node, f"snapshot: verified file:{share}/")
    node.etcd.put("by hand", "1")
    done = command(lab, node, "snapshot", "save", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (stored,) = json.loads(done.stdout)
    made = stored["manifest"]
    assert made["reason"] == "by-hand" and made["verified"]["level"] == "digest", made
    assert made["hash_kv"]["revision"] == made["revision"] >= 2, made
    assert not said(node, "snapshot: no hash"), said(node, "snapshot: no hash")
    return made


@pytest.mark.core
@pytest.mark.release
@pytest.mark.no_learners
@pytest.mark.parametrize("mode", [PLAIN, AUTO, FILES])
def test_snapshots_are_taken_over_any_kind_of_tls(lab, share, mode):
    """`auto`: a certificate that nobody vouches for; `files`: a company's CA, and etcd asks for a client's certificate."""
    lab.security = Security(mode, mode)
    (node,) = form(lab, 1, size=1)
    assert not saved_and_scheduled(lab, node, share)["auth"]


@pytest.mark.core
@pytest.mark.release
@pytest.mark.no_learners
@pytest.mark.parametrize("mode", [PLAIN, MINTED])
def test_snapshots_are_taken_with_authentication_on(lab, share, mode):
    """Its own certificates, as elsewhere: with a common name in a client's certificate etcd's JSON gateway refuses every call under authentication."""
    lab.security = Security(mode, mode)
    (node,) = form_guarded(lab, 1, size=1)
    lab.wait(lambda: manifests_with_auth(share), BOUND, "a scheduled one with authentication on")
    assert saved_and_scheduled(lab, node, share)["auth"]


def manifests_with_auth(share) -> list[str]:
    return [name for name in in_share(share) if (made := json.loads((share / name).read_text()))["auth"] and made.get("verified")]


def test_a_new_leader_goes_on_and_an_old_one_stops(lab, places):
    s3, _ = places
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    wait_said(lab, leader, "snapshot: verified s3://")
    stop(leader)
    rest = [node for node in nodes if node is not leader]
    lab.wait(lambda: leader_of(lab, *rest), BOUND, "another leader")
    new = leader_of(lab, *rest)
    new.etcd.put("after", "1")
    wait_said(lab, new, "snapshot: verified s3://")
    assert len({key.split("/")[0] for key in in_bucket(s3)}) == 1


def test_a_bucket_that_is_missing_or_read_only_disturbs_nothing_but_itself(lab, places):
    s3, share = places
    """Of a cluster that runs. (One that is founded waits: whether there was one is unknown then.)"""
    lab.ec2.set_role_actions(*NODE_ACTIONS, "s3:GetObject", "s3:ListBucket")
    (node,) = form(lab, 1, size=1, MUSTER_SNAPSHOT_EVERY="0")
    stop(node)
    node.env["MUSTER_SNAPSHOTS"] = f"s3://no-such-bucket/x,s3://{BUCKET}/{PREFIX},file:{share}"
    node.env["MUSTER_SNAPSHOT_EVERY"] = "1s"
    node.start()
    wait_formed(lab, node)
    wait_said(lab, node, "snapshot: ", "NoSuchBucket")
    wait_said(lab, node, "snapshot: ", "AccessDenied", "s3:PutObject")
    wait_said(lab, node, f"snapshot: verified file:{share}/")
    assert not in_bucket(s3) and node.etcd.health()
    metrics = command(lab, node, "status", "--json")
    by_place = {place["place"]: place for place in json.loads(metrics.stdout)["snapshots"]}
    assert by_place[f"file:{share}"]["lastVerified"] and not by_place[f"s3://{BUCKET}/{PREFIX}"]["lastSuccess"]
    assert by_place[f"s3://{BUCKET}/{PREFIX}"]["failuresTotal"], by_place


def test_without_the_right_to_delete_all_are_kept_and_that_is_said_once(lab, places):
    s3, _ = places
    lab.env["MUSTER_SNAPSHOT_KEEP"] = "1h"
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
    (node,) = form(lab, 1, size=1)
    for number in range(6):
        node.etcd.put("key", str(number))
        count = len(in_bucket(s3))
        lab.wait(lambda: len(in_bucket(s3)) > count, BOUND, "one more")
    wait_said(lab, node, "does not allow to delete, so all are kept there")
    assert len(in_bucket(s3)) >= 6 and node.etcd.health()


def test_a_supervisor_killed_between_data_and_manifest_leaves_no_snapshot(lab, places):
    s3, _ = places
    hit = []

    def kill(call, proceed):
        if call.request.method == "PUT" and f"{PREFIX}/" in call.request.target and ".json" in call.request.target and not hit:
            hit.append(True)
            node.kill()
            return None
        return proceed()

    (node,) = form(lab, 1, size=1, MUSTER_SNAPSHOT_EVERY="5s")
    node.front.add(kill)
    lab.wait(lambda: hit, BOUND, "the manifest's PUT")
    assert in_bucket(s3, ".db") and not in_bucket(s3)
    node.front.clear()
    node.wait_exit(BOUND)
    node.start()
    lab.wait(lambda: in_bucket(s3), BOUND, "a snapshot by the next life")
    assert listed(lab, node, "--at", f"s3://{BUCKET}/{PREFIX}")[0]["snapshots"]
