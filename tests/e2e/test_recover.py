"""A quorum that is lost for good: a survivor's data goes on as a new cluster, and the original is left as it was."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from fleet import BOUND, QUICK, command, field, form, launch, leader_of, mark, member_ids, said, start, stop, tree, wait_formed, wait_said
from muster_tools.lab.ec2 import NODE_ACTIONS

BUMP = 1_000_000_000


def plan_of(lab, node, *arguments: str) -> dict | None:
    """None: its etcd does not answer yet."""
    done = command(lab, node, "recover", "--json", *arguments)
    assert done.stdout or "must run for it" in done.stderr, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def refused(lab, node, why: str, *arguments: str) -> str:
    """In the end for that reason; what is ordered all the same is not done."""

    def plan() -> dict | None:
        found = plan_of(lab, node, *arguments)
        return found if found and why in (found["obstacle"] or "") else None

    plan = lab.wait(plan, BOUND, f"refused because: {why}")
    done = command(lab, node, "recover", *arguments, "--yes", plan["plan"])
    assert done.returncode == 1 and not said(node, "recovery: "), done.stdout + done.stderr
    return plan["obstacle"]


def recover(lab, node, *arguments: str):
    def ready() -> dict | None:
        found = plan_of(lab, node, *arguments)
        return found if found and found["obstacle"] is None else None

    lab.wait(lambda: node.etcd.peer_version(), BOUND, "its etcd at the peer port")
    if raises_no_revisions(node):
        arguments = (*arguments, "--no-bump")
    plan = lab.wait(ready, BOUND, "a plan without an obstacle")
    done = command(lab, node, "recover", *arguments, "--yes", plan["plan"])
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def raises_no_revisions(node) -> bool:
    """Until 3.5.9 etcd's tool can't."""
    return tuple(int(part) for part in node.etcd.peer_version()["etcdserver"].split(".")) < (3, 5, 10)


def quarantined(node) -> list:
    return sorted(node.directory.glob("data/quarantine-*"))


@pytest.mark.core
def test_one_survivor_of_three_goes_on_and_new_instances_join_it(lab):
    nodes = form(lab, 3, size=3, **QUICK)
    survivor, others = nodes[0], nodes[1:]
    before = survivor.etcd.cluster_id()
    for number in range(20):
        nodes[1].etcd.put(f"key-{number}", str(number))
    lab.wait(lambda: survivor.etcd.get("key-19", serializable=True) == "19", BOUND, "the survivor has all")
    refused(lab, survivor, "has a leader")
    lab.terminate(others[0])
    lab.stop_instances(others[1])
    # A stopped instance may come back, and with it the quorum.
    obstacle = refused(lab, survivor, "may come back")
    assert "of 3 voters 1 are lost for good" in obstacle and "its instance exists" in obstacle, obstacle
    lab.terminate(others[1])
    done = recover(lab, survivor)
    after = survivor.etcd.cluster_id()
    assert after != before and after in done.stdout
    raised = int(survivor.etcd.status()["header"]["revision"]) > BUMP
    assert survivor.etcd.get("key-19") == "19" and raised != raises_no_revisions(survivor)
    assert len(survivor.etcd.members()) == 1 and quarantined(survivor)
    survivor.etcd.put("after", "1")
    new = launch(lab, 2)
    start(*new)
    assert wait_formed(lab, survivor, *new) == after
    assert new[1].etcd.get("after") == "1" and new[0].etcd.get("key-0") == "0"


def test_what_only_the_log_holds_is_recovered_too(lab):
    """The database is written every tenth of a second; a kill leaves what was written since in the log alone."""
    nodes = form(lab, 3, size=3, **QUICK)
    survivor = leader_of(lab, *nodes)
    others = [node for node in nodes if node is not survivor]
    for number in range(50):
        survivor.etcd.put(f"key-{number}", str(number))
    for node in nodes:
        node.power_off()
    for node in others:
        lab.terminate(node)
    survivor.start()
    recover(lab, survivor)
    assert [survivor.etcd.get(f"key-{number}") for number in range(50)] == [str(number) for number in range(50)]


def test_an_operator_may_name_what_is_lost_but_not_what_answers(lab):
    nodes = form(lab, 3, size=3, **QUICK)
    survivor, stopped, gone = nodes
    ids = {node: member_ids(survivor)[node.peer_url] for node in nodes}
    survivor.etcd.put("key", "1")
    lab.terminate(gone)
    stop(stopped)
    refused(lab, survivor, "--lost")
    done = command(lab, survivor, "recover", "--lost", "beef")
    assert done.returncode != 0 and "is no member's id" in done.stderr
    stopped.start()
    lab.wait(lambda: stopped.etcd.health(), BOUND, "the quorum is back")
    refused(lab, survivor, "has a leader", "--lost", ids[stopped])
    stop(stopped)
    recover(lab, survivor, "--lost", ids[stopped])
    assert survivor.etcd.get("key") == "1"
    # It comes back after all, with data of a cluster that is no more: it stays down, and its data is left as it is.
    since = mark(stopped)
    stopped.start()
    wait_said(lab, stopped, "halt: ", since=since)
    assert not quarantined(stopped) and survivor.etcd.health()


def test_two_survivors_of_five_the_one_with_more_goes_on(lab):
    nodes = form(lab, 5, size=5, **QUICK)
    first, second, *gone = nodes
    before = first.etcd.cluster_id()
    ids = member_ids(first)
    # One that lags: it is down while the others write. (From a leader that still lives it may get all that it lacks.)
    stop(second)
    for number in range(10):
        first.etcd.put(f"key-{number}", str(number))
    for node in gone:
        lab.terminate(node)
    second.start()
    # What a running etcd says of itself is less than its log holds: each is asked on its own host.
    logs = {}
    for node, other in ((first, second), (second, first)):
        refused(lab, node, "is not known", "--log-end", f"{ids[node.peer_url]}=1.1")
        logs[node] = plan_of(lab, node)["log"]
    given = {node: ("--log-end", f"{ids[node.peer_url]}={logs[node]['term']}.{logs[node]['index']}") for node in (first, second)}
    if logs[first] != logs[second]:
        refused(lab, second, "has more: its log ends at", *given[first])
    recover(lab, first, *given[second])
    after = first.etcd.cluster_id()
    assert after != before and first.etcd.get("key-9") == "9"
    # The other one's data is of the cluster before: started again it is left as it is, and runs nothing.
    stop(second)
    since = mark(second)
    second.start()
    wait_said(lab, second, "halt: ", since=since)
    assert not quarantined(second) and not second.etcd_pids()


def test_a_claim_names_the_cluster_that_goes_on(lab):
    s3 = lab.ec2.client("s3")
    lab.ec2.set_role_actions(*NODE_ACTIONS, "s3:GetObject", "s3:PutObject", "s3:ListBucket")
    s3.create_bucket(Bucket="claims", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    nodes = form(lab, 3, size=3, **QUICK, MUSTER_CLAIM="s3://claims/blue")
    survivor = nodes[0]
    survivor.etcd.put("key", "1")
    before = survivor.etcd.cluster_id()

    def claimed() -> dict:
        return json.loads(s3.get_object(Bucket="claims", Key="blue/claim.json")["Body"].read())

    def established() -> dict | None:
        with suppress(s3.exceptions.NoSuchKey):
            return claimed() if claimed()["state"] == "established" else None
        return None

    lab.wait(established, BOUND, "the claim of the first cluster")
    for node in nodes[1:]:
        lab.terminate(node)
    recover(lab, survivor)
    assert survivor.etcd.cluster_id() != before and survivor.etcd.get("key") == "1"
    assert lab.wait(established, BOUND, "the claim of the next one")["cluster"] == int(survivor.etcd.cluster_id(), 16)
    new = launch(lab, 2)
    start(*new)
    wait_formed(lab, survivor, *new)


def refused_to_set_aside(lab, node, why: str) -> None:
    done = command(lab, node, "set-aside", "--json")
    plan = json.loads(done.stdout)
    assert done.returncode == 1 and why in plan["obstacle"], done.stdout + done.stderr
    done = command(lab, node, "set-aside", "--yes", plan["plan"])
    assert done.returncode == 1 and why in done.stdout
    assert (node.data / "member").is_dir() and not list(node.data.glob("quarantine-*"))


def test_data_is_set_aside_only_if_the_others_can_do_without_it(lab):
    nodes = form(lab, 3, size=3, **QUICK)
    chosen, second, third = nodes
    chosen.etcd.put("kept", "1")
    old_id = member_ids(second)[chosen.peer_url]
    refused_to_set_aside(lab, chosen, "stop the supervisor here")
    assert chosen.etcd.health()
    stop(chosen)
    done = command(lab, chosen, "set-aside")
    assert done.returncode == 0 and "joins cluster" in done.stdout
    plan = field(done.stdout, r"(?m)^plan +([0-9a-f]+)$")
    found = tree(chosen.data / "member", chosen.wal / "wal")
    wrong = command(lab, chosen, "set-aside", "--yes", "0" * 12)
    assert wrong.returncode == 1 and "look at it again" in wrong.stderr and tree(chosen.data / "member", chosen.wal / "wal") == found
    # A move that was interrupted is the supervisor's to finish: a second mark would hide why that was begun.
    mark_of_a_move = chosen.data / "muster" / "quarantine"
    mark_of_a_move.write_text(json.dumps({"stamp": "20260101T000000Z", "why": "MayHaveVoted"}))
    done = command(lab, chosen, "set-aside", "--yes", plan)
    assert done.returncode == 1 and "was interrupted" in done.stderr and tree(chosen.data / "member", chosen.wal / "wal") == found
    mark_of_a_move.unlink()
    done = command(lab, chosen, "set-aside", "--yes", plan)
    assert done.returncode == 0, done.stdout + done.stderr
    aside = tree(*chosen.data.glob("quarantine-*"), *chosen.wal.glob("quarantine-*"))
    assert sorted(found.values()) == sorted(aside.values()), "renamed, all of it"
    start(chosen)
    wait_formed(lab, *nodes)
    assert chosen.etcd.get("kept") == "1" and member_ids(second)[chosen.peer_url] != old_id
    # Two are left: without one of them there is no quorum, and without a quorum nobody knows what is needed.
    lab.terminate(third)
    stop(second)
    refused_to_set_aside(lab, second, "may be all that is left of acknowledged writes")
    start(second)
    lab.wait(second.etcd.health, BOUND, "the quorum of these two")
