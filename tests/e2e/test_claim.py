"""MUSTER_CLAIM: one object in S3 that is written only if it is absent settles who founds, whatever EC2 shows."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from fleet import BOUND, form, launch, mark, rank, said, start, stop, wait_formed, wait_looks, wait_said
from muster_tools.lab.ec2 import NODE_ACTIONS
from muster_tools.lab.ec2_faults import delayed, dropped, error, hanging, hidden, launched, refused, unavailable
from muster_tools.lab.http_server import Reply

BUCKET = "claims"
KEY = "prod/claim.json"
CLAIM = f"s3://{BUCKET}/prod"
RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket")
RACES = 200


@pytest.fixture
def claims(lab):
    """The bucket, as an administrator sees it, and nodes that may use it."""
    s3 = lab.ec2.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
    lab.env["MUSTER_CLAIM"] = CLAIM
    return s3


def read(claims) -> dict | None:
    try:
        return json.loads(claims.get_object(Bucket=BUCKET, Key=KEY)["Body"].read())
    except claims.exceptions.NoSuchKey:
        return None


def write(claims, claim) -> None:
    claims.put_object(Bucket=BUCKET, Key=KEY, Body=claim if isinstance(claim, bytes) else json.dumps(claim).encode())


def founding(*instances: str) -> dict:
    members = [{"instance": i, "name": i, "peer_urls": [f"http://{i}:2380"]} for i in instances]
    return {"state": "founding", "list": {"members": members, "token": "etcd-muster-1"}}


def wait_established(lab, claims, cluster: str) -> None:
    lab.wait(lambda: read(claims) == {"state": "established", "cluster": int(cluster, 16)}, BOUND, "established claim")


def once_at(key: str, rule):
    """That rule for the first write there, and for no other: each tries the store on an object of its own before."""
    left = [rule]

    def limited(call, proceed):
        wanted = call.request.method == "PUT" and call.request.target.startswith(f"/{BUCKET}/{key}")
        return left.pop()(call, proceed) if wanted and left else proceed()

    return limited


# The usual days.


@pytest.mark.core
def test_a_claim_is_written_once_and_established_by_the_first_quorum(lab, claims):
    """The strongest founding there is, in two settings: nothing is voted on, and the object tells what became of it."""
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    wait_established(lab, claims, cluster)
    assert sum(said(node, "claimed: ") is not None for node in nodes) == 1
    assert not any(said(node, "propose: ") for node in nodes)
    assert not any(said(node, "remove member") or said(node, "add self: ") for node in nodes), "each has the place it was given"


def test_a_replacement_joins_under_an_established_claim(lab, claims):
    nodes = form(lab, 3, size=3)
    lab.terminate(nodes[2])
    new = lab.add_node()
    start(new)
    wait_formed(lab, *nodes[:2], new)


def test_a_cluster_from_before_the_claim_gets_one(lab, claims):
    """MUSTER_CLAIM is added to a running fleet: a restart of any member is enough, and fresh nodes are bound by it."""
    nodes = launch(lab, 3, size=3, MUSTER_CLAIM="")
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    stop(nodes[0])
    nodes[0].env["MUSTER_CLAIM"] = CLAIM
    start(nodes[0])
    wait_established(lab, claims, cluster)


# Two founders.


def test_of_two_founders_that_see_only_themselves_one_wins_200_races(lab, claims):
    """The split that listings can cause: each of two nodes is sure that it is the whole fleet. Their writes are let go at
    the same moment; one of them founds, the other one holds."""
    nodes = launch(lab, 2, size=1)
    for race in range(RACES):
        together = threading.Barrier(2)

        def at_once(call, proceed):
            together.wait(BOUND)
            return proceed()

        marks = {node: mark(node) for node in nodes}
        for node in nodes:
            node.front.clear()
            node.front.add(hidden(*(other.instance.id for other in nodes if other is not node)), action="DescribeInstances")
            node.front.add(once_at(KEY, at_once))
            node.start()

        def outcome():
            won = [node for node in nodes if said(node, "claimed: ", since=marks[node])]
            lost = [node for node in nodes if said(node, "hold: ", "as the first members", since=marks[node])]
            established = [node for node in nodes if said(node, "hold: ", "was bootstrapped", since=marks[node])]
            return (won, lost + established) if won and (lost or established) else None

        won, lost = lab.wait(outcome, BOUND, f"outcome of race {race}")
        assert [len(won), len(set(lost))] == [1, 1] and won[0] not in lost
        assert not lost[0].etcd_pids()
        for node in nodes:
            node.power_off()
            node.wipe()
        claims.delete_object(Bucket=BUCKET, Key=KEY)
    print(f"{RACES} races, one winner each")


def test_either_of_two_founds_while_the_other_is_silent_and_the_other_joins(lab, claims):
    """Two nodes and a claim: the younger needs no operator when the older is down, because the claim can't be had twice."""
    older, younger = launch(lab, 2, size=2)
    rank(lab, older, younger)
    start(younger)
    wait_formed(lab, younger)
    assert said(younger, "claimed: ")
    start(older)
    wait_formed(lab, older, younger)


def test_claimers_and_voters_dont_mix(lab, claims):
    """One node of three lacks the setting: named, not overlooked."""
    nodes = launch(lab, 3, size=3)
    nodes[2].env["MUSTER_CLAIM"] = ""
    start(nodes[2])
    wait_said(lab, nodes[2], "hold: ")
    start(*nodes[:2])
    wait_said(lab, nodes[0], "has a different bootstrap configuration")
    wait_looks(lab, *nodes)
    assert not any(node.etcd_pids() for node in nodes)
    stop(nodes[2])
    nodes[2].env["MUSTER_CLAIM"] = CLAIM
    start(nodes[2])
    wait_formed(lab, *nodes)


# What was claimed, and is gone.


def test_an_established_claim_is_never_founded_over(lab, claims):
    """All three disks are lost, or all three instances replaced: to start anew, empty, is an operator's decision."""
    nodes = form(lab, 3, size=3)
    wait_established(lab, claims, nodes[0].etcd.cluster_id())
    for node in nodes:
        lab.terminate(node)
    fresh = [lab.add_node() for _ in range(3)]
    start(*fresh)
    for node in fresh:
        line = wait_said(lab, node, "hold: ", "was bootstrapped")
        assert f"s3://{BUCKET}/{KEY}" in line and "delete that object" in line
    wait_looks(lab, *fresh)
    assert not any(node.etcd_pids() for node in fresh)
    claims.delete_object(Bucket=BUCKET, Key=KEY)
    wait_formed(lab, *fresh)


def test_a_founding_that_can_never_have_a_quorum_is_replaced(lab, claims):
    """The claimers were terminated before their etcds ever met: what they claimed binds nobody."""
    dead = [lab.add_node() for _ in range(2)]
    write(claims, founding(*(node.instance.id for node in dead)))
    for node in dead:
        lab.terminate(node)
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    wait_established(lab, claims, cluster)


def test_a_void_claim_is_replaced_by_one_and_followed_by_all_of_an_old_fleet(lab, claims):
    """Who never ran has nothing to lose by following: the others took themselves for members whose disks were lost, for good."""
    dead = [lab.add_node() for _ in range(2)]
    write(claims, founding(*(node.instance.id for node in dead)))
    for node in dead:
        lab.terminate(node)
    nodes = launch(lab, 3, size=3)
    lab.fault_ec2(launched(timedelta(hours=2), *(node.instance.id for node in nodes)))
    start(*nodes)
    wait_established(lab, claims, wait_formed(lab, *nodes))


def test_a_claim_for_others_is_held_to(lab, claims):
    """Nothing says that the claimers are gone: their cluster may be alive out of sight."""
    write(claims, founding("i-0aaaaaaaaaaaaaaa1", "i-0aaaaaaaaaaaaaaa2"))
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    for node in nodes:
        assert "i-0aaaaaaaaaaaaaaa1" in wait_said(lab, node, "hold: ", "as the first members")
    wait_looks(lab, *nodes)
    assert not any(node.etcd_pids() for node in nodes)


# S3's bad days.


def late(seconds):
    """S3 takes the write after the caller has given up."""

    def rule(call, proceed):
        threading.Timer(seconds, proceed).start()
        return None

    return rule


def unanswered(call, proceed):
    """S3 takes the write, and the answer is lost."""
    proceed()
    return None


@pytest.mark.parametrize("key", [KEY, "prod/claim-trial-"], ids=["claim", "trial"])
@pytest.mark.parametrize(
    "rule",
    [
        refused(409, "ConditionalRequestConflict", "The conditional request cannot succeed."),
        refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
        refused(503, "SlowDown", "Please reduce your request rate."),
        unavailable(),
        dropped(),
        unanswered,
        late(0.3),
        delayed(1),
    ],
    ids=["409", "412", "503", "html", "dropped", "unanswered", "late", "slow"],
)
def test_a_write_whose_outcome_is_unknown_is_looked_up(lab, claims, rule, key):
    """The next look tells what became of it; the same write is never taken for granted, nor for lost."""
    nodes = launch(lab, 3, size=3)
    lab.heal_ec2()
    for node in nodes:
        node.front.add(once_at(key, rule))
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    wait_established(lab, claims, cluster)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (refused(403, "AccessDenied", "Access Denied"), "s3:ListBucket on arn:aws:s3:::claims"),
        (refused(503, "SlowDown", "Please reduce your request rate."), "SlowDown"),
        (unavailable(), "not AWS's answer"),
        (dropped(), "closed without an answer"),
        (hanging(), "no answer within 5000 ms"),
        (lambda call, proceed: Reply(200, b"{}", [("ETag", '"1"')]), "is not a claim"),
        (lambda call, proceed: Reply(200, b'{"state": "found', [("ETag", '"1"')]), "is not a claim"),
        (lambda call, proceed: Reply(200, b"{}"), "without an ETag"),
        (
            lambda call, proceed: replace(
                error(301, "PermanentRedirect", "Use the right endpoint."), headers=[("x-amz-bucket-region", "us-east-1")]
            ),
            "set AWS_REGION=us-east-1",
        ),
    ],
    ids=["403", "503", "html", "dropped", "hanging", "foreign", "truncated", "no etag", "region"],
)
def test_a_claim_that_cant_be_read_is_not_a_free_one(lab, claims, rule, words):
    """Each failure is named, nothing is founded meanwhile, and nobody has to restart anything once it is over."""
    nodes = launch(lab, 2, size=2)
    for node in nodes:
        node.front.add(rule, action="GET")
    start(*nodes)
    for node in nodes:
        wait_said(lab, node, "hold: the claim object can't be read", words)
    wait_looks(lab, *nodes, more=1)
    assert not any(node.front.calls["PUT"] or node.etcd_pids() for node in nodes)
    lab.heal_ec2()
    wait_formed(lab, *nodes)


def test_a_missing_bucket_and_a_missing_right_are_named(lab, claims):
    claims.delete_bucket(Bucket=BUCKET)
    nodes = launch(lab, 2, size=2)
    start(*nodes)
    wait_said(lab, nodes[0], "NoSuchBucket", "create the bucket claims in this region")
    lab.ec2.set_role_actions(*NODE_ACTIONS)
    claims.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    wait_said(lab, nodes[0], "AccessDenied", "the role's policy must allow s3:GetObject")
    lab.ec2.set_role_actions(*NODE_ACTIONS, *RIGHTS)
    wait_formed(lab, *nodes)


def test_with_data_etcd_needs_no_claim(lab, claims):
    """S3 out of sight stops no etcd, and keeps none from restarting."""
    nodes = form(lab, 3, size=3)
    for node in nodes:
        node.power_off()
        node.front.add(dropped(), action="GET")
    start(*nodes)
    wait_formed(lab, *nodes)
