"""MUSTER_CLAIM in stores that aren't AWS's: what each does with a write on a condition was measured (`muster_tools.lab.s3_store`).

Whoever takes a store at its word founds twice, or founds over acknowledged data. So it is tried first: a store that keeps to conditions
is used, whatever its ways; one that doesn't holds no claim, and one line says what it did.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fleet import BOUND, PATIENT, form, keep, launch, lines, mark, said, start, wait_formed, wait_looks, wait_said
from muster_tools.lab.ec2_faults import hidden
from muster_tools.lab.instance import REGION
from muster_tools.lab.s3_store import STORES, S3Store

BUCKET = "claims"
KEY = f"{BUCKET}/prod/claim.json"
FIT = ["AWS", "radosgw 16", "radosgw 18", "radosgw 20"]
UNFIT = {
    "rclone": "accepts a write with If-None-Match: *",
    "nanio": "accepts a write with If-None-Match: *",
    "pys3local": "accepts a write with If-None-Match: *",
    "localbucket": "accepts a write with If-Match although the ETag is not",
    "refuses all": "refuses a write with If-None-Match: *",
    "keeps nothing": "can't be read afterwards",
}


@pytest.fixture
def store(request, lab):
    """One for all nodes, in place of AWS's."""
    with S3Store(getattr(request, "param", "AWS")) as made:
        lab.env |= {"MUSTER_CLAIM": f"s3://{BUCKET}/prod", "AWS_ENDPOINT_URL_S3": made.url}
        yield made


def claim(store: S3Store) -> dict | None:
    held = store.objects.get(KEY)
    return held and json.loads(held)


def wait_established(lab, store: S3Store, cluster: str) -> None:
    expected = {"state": "established", "cluster": int(cluster, 16)}
    lab.wait(lambda: claim(store) == expected, BOUND, "established claim")


def trials(store: S3Store, node) -> list:
    return [write for write in store.writes if write.key == f"{BUCKET}/prod/claim-trial-{node.instance.id}.json"]


def wait_refused(lab, node, store: S3Store, deed: str) -> str:
    def holds() -> str | None:
        assert not node.etcd_pids(), f"it founded: {node.log_tail()}"
        return said(node, "hold: ", store.url, deed)

    return lab.wait(holds, BOUND, f"hold that names {store.url}")


def no_etcd_ran(*nodes) -> bool:
    return not any(node.etcd_pids() or said(node, "etcd runs as process") for node in nodes)


# Stores that keep to conditions.


@pytest.mark.core
@pytest.mark.parametrize("store", FIT, indirect=True)
def test_a_claim_is_written_once_established_and_never_founded_over(lab, store):
    """radosgw 16 and 18 refuse the ETag that they gave out unless its quotes are off: the claim stayed "founding", in silence, and
    two wiped disks founded the same cluster id again, without its acknowledged keys."""
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    wait_established(lab, store, cluster)
    assert sum(said(node, "claimed: ") is not None for node in nodes) == 1
    keep(nodes, "key", "value")
    for node in nodes:
        node.power_off()
    wiped = nodes[:2]
    since = {node: mark(node) for node in wiped}
    for node in wiped:
        node.wipe()
    start(*wiped)
    for node in wiped:
        assert f"s3://{KEY}" in wait_said(lab, node, "hold: ", cluster, "was bootstrapped", since=since[node])
    wait_looks(lab, *wiped)
    assert not any(node.etcd_pids() for node in wiped)


def test_each_tries_the_store_on_an_object_of_its_own_and_leaves_it(lab, store):
    """Two that tried on one object would take each other for a fault of the store. From the second start on it is there from before."""
    nodes = form(lab, 3, size=3, **PATIENT)  # a joiner's first look must see the quorum
    wait_established(lab, store, nodes[0].etcd.cluster_id())
    tried = {node: [(write.if_none_match, write.status) for write in trials(store, node)] for node in nodes}
    assert all(writes == [("*", 200), ("*", 412), (None, 412), (None, 200)] for writes in tried.values()), tried
    lab.terminate(nodes[2])
    joiner = lab.add_node()
    start(joiner)
    wait_formed(lab, *nodes[:2], joiner)
    assert not trials(store, joiner), "who joins a living cluster needs no claim"
    for node in nodes[:2]:
        node.power_off()
    joiner.power_off()
    before, since = len(trials(store, nodes[0])), mark(nodes[0])
    nodes[0].wipe()
    start(nodes[0])
    wait_said(lab, nodes[0], "hold: ", "was bootstrapped", since=since)  # it may have established the claim itself, and said so
    again = [(write.if_none_match, write.status) for write in trials(store, nodes[0])[before:]]
    assert again == [("*", 412), (None, 412), (None, 200)]


def test_a_versions_quotes_are_left_off(lab, store):
    """What all stores take that keep to If-Match."""
    form(lab, 1, size=1)
    lab.wait(lambda: (claim(store) or {}).get("state") == "established", BOUND, "established claim")
    sent = [write.if_match for write in store.writes if write.if_match]
    assert sent and not any('"' in version for version in sent)


def test_the_region_of_a_store_is_set_and_not_its_buckets(lab, store):
    """There is one store, and it is where it is: to name another bucket wouldn't help."""
    store.like = STORES["ministack"]
    nodes = launch(lab, 2, size=2)
    start(*nodes)
    for node in nodes:
        wait_said(lab, node, "hold: ", "set AWS_REGION=us-east-1")
    assert no_etcd_ran(*nodes)
    store.like = replace(store.like, region=REGION)
    wait_formed(lab, *nodes)


# Stores that don't.


@pytest.mark.core
@pytest.mark.parametrize("store", UNFIT, indirect=True)
def test_a_store_that_does_not_keep_to_conditions_holds_no_claim(lab, store, request):
    """Both of two founders were told "yes, yours is the first". Now nobody founds there, and the one line names store, deed and way out."""
    deed = UNFIT[request.node.callspec.params["store"]]
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    for node in nodes:
        line = wait_refused(lab, node, store, deed)
        assert "unset MUSTER_CLAIM" in line and f"claim-trial-{node.instance.id}.json" in line
    wait_looks(lab, *nodes, more=5)
    assert no_etcd_ran(*nodes)
    assert KEY not in {write.key for write in store.writes}, "no claim was ever written"
    for node in nodes:
        assert sum(deed in line for line in lines(node) if not line.startswith("view: ")) == 1, "said once"


def test_a_store_that_was_mended_is_used_without_a_restart(lab, store):
    store.like = STORES["rclone"]
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    for node in nodes:
        wait_refused(lab, node, store, "If-None-Match: *")
    store.like = STORES["radosgw 18"]
    wait_established(lab, store, wait_formed(lab, *nodes))


def test_a_store_that_fails_is_tried_again_ever_more_seldom(lab, store):
    """For a day, if need be: it must not be the fleet's own trials that break it."""
    store.like = STORES["refuses all"]
    (node,) = launch(lab, 1, size=1)
    start(node)
    lab.wait(lambda: len(trials(store, node)) >= 4, BOUND, "four trials")
    at = [write.at for write in trials(store, node)]
    pauses = [later - earlier for earlier, later in zip(at, at[1:])]
    assert all(later > 1.2 * earlier for earlier, later in zip(pauses, pauses[1:])), pauses


def test_two_founders_that_see_only_themselves_found_nothing_in_an_unfit_store(lab, store):
    """The race that such a store decides for both: two clusters in half of all rounds."""
    store.like = STORES["rclone"]
    nodes = launch(lab, 2, size=1)
    nodes[0].front.add(hidden(nodes[1].instance.id), action="DescribeInstances")
    nodes[1].front.add(hidden(nodes[0].instance.id), action="DescribeInstances")
    start(*nodes)
    for node in nodes:
        wait_refused(lab, node, store, "accepts a write with If-None-Match: *")
    wait_looks(lab, *nodes)
    assert no_etcd_ran(*nodes)


# A store that turns bad after its trial.


def test_a_refusal_without_a_reason_is_the_stores_fault_and_said_once(lab, store):
    """It refuses though nobody wrote: that is no other claim that came first. Asked ten times a second, it was."""
    (node,) = launch(lab, 1, size=1)
    store.refuse(KEY, "If-None-Match")
    start(node)
    line = wait_said(lab, node, "the store refuses a write with If-None-Match: *")
    assert f"s3://{KEY}" in line
    refused = lambda: [write for write in store.writes if write.key == KEY]
    lab.wait(lambda: len(refused()) >= 7, BOUND, "seven tries")
    at = [write.at for write in refused()]
    pauses = [later - earlier for earlier, later in zip(at, at[1:])]
    assert pauses[-1] > 2 * pauses[0], pauses
    assert sum("the store refuses a write" in line for line in lines(node)) == 1
    assert not said(node, "another node wrote its claim first") and no_etcd_ran(node)
    store.heal()
    wait_formed(lab, node)


def test_a_claim_that_cant_be_established_is_said_by_each_member_and_tried_again(lab, store):
    """Until it says so, fresh nodes may found again: never in silence."""
    nodes = launch(lab, 3, size=3)
    store.refuse(KEY, "If-Match")
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    for node in nodes:
        assert f"s3://{KEY}" in wait_said(lab, node, "the claim could not be written: ", "refuses a write with If-Match")
    assert claim(store)["state"] == "founding"
    store.heal()
    wait_established(lab, store, cluster)
    for node in nodes:
        assert sum("could not be written" in line for line in lines(node)) == 1
