"""Tagged instances become one etcd cluster: never two, never a wrong one, and never none for want of patience."""

import random
from datetime import timedelta

import pytest
from fleet import (
    BOUND,
    PATIENT,
    field,
    form,
    launch,
    looks,
    looks_since,
    mark,
    member_ids,
    occupied,
    predicted_cluster_id,
    rank,
    replace_etcd,
    restore_etcd,
    said,
    start,
    stop,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.ec2_faults import delayed, hidden, impaired, launched
from muster_tools.lab.etcd import PEER_PORT

CRASH = "echo 'panic: something is wrong' >&2; exit 2"


def no_etcd_ran(*nodes) -> bool:
    return not any(node.etcd_pids() or said(node, "etcd runs as process") for node in nodes)


# The usual days.


@pytest.mark.release
@pytest.mark.no_learners
@pytest.mark.core
def test_three_started_at_once_become_one_cluster_with_the_predicted_id(lab):
    """The main promise: a fleet that boots together is one working cluster, under the id that was agreed on."""
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    cluster = wait_formed(lab, *nodes)
    founders = [line for line in (said(node, "start new: ") for node in nodes) if line]
    assert len(founders) >= 2, "the third may come late, and takes its place in the cluster"
    for line in founders:
        assert cluster == predicted_cluster_id(field(line, r"start new: (\S+)"), field(line, r"token (\S+)\)"))
    nodes[0].etcd.put("key", "value")
    assert nodes[2].etcd.get("key") == "value"


@pytest.mark.core
def test_a_straggler_is_waited_for_and_founds_with_the_others(lab):
    """Instances of one launch boot minutes apart: the early ones neither give up nor found without the last."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")
    start(*nodes[:2])
    for node in nodes[:2]:
        lab.wait(lambda: said(node, "hold: "), BOUND, "a node that holds")
    wait_looks(lab, *nodes[:2], more=2)
    assert no_etcd_ran(*nodes)
    start(nodes[2])
    wait_formed(lab, *nodes)
    assert not any(said(node, "remove member") or said(node, "add self: ") for node in nodes)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_arrival_does_not_matter(lab, seed):
    """Who boots first is chance; it must decide nothing."""
    nodes = launch(lab, 3, size=3)
    order = random.Random(seed).sample(nodes, 3)
    for node in order:
        start(node)
        if node is not order[-1]:
            wait_looks(lab, node, more=1)
    wait_formed(lab, *nodes)


def test_without_a_size_all_tagged_instances_are_the_cluster(lab):
    """The shortest configuration there is: a tag, nothing else."""
    nodes = launch(lab, 3)
    start(*nodes)
    wait_formed(lab, *nodes)


@pytest.mark.core
def test_two_become_a_cluster_of_two(lab):
    """The smallest cluster that the tag alone can make."""
    form(lab, 2, size=2)


def test_one_alone_is_a_cluster_of_one_and_a_second_time_another(lab):
    """A laptop: one node, at once; after its disk is lost, the new cluster can't be mistaken for the old."""
    (node,) = launch(lab, 1, size=1)
    start(node)
    first = wait_formed(lab, node)
    node.power_off()
    node.wipe()
    start(node)
    assert wait_formed(lab, node) != first


def test_five_become_a_cluster_of_five(lab):
    """Larger fleets found the same way."""
    nodes = launch(lab, 5, size=5)
    start(*nodes)
    wait_formed(lab, *nodes)


# Someone is missing.


@pytest.mark.core
def test_two_of_three_that_were_ever_launched_found_after_the_grace_and_the_third_joins(lab):
    """A capacity shortage leaves two of three: they serve after the grace time, the third becomes a voter later."""
    nodes = launch(lab, 2, size=3)
    rank(lab, *nodes)
    start(nodes[1])
    wait_said(lab, nodes[1], "hold: ")
    start(nodes[0])
    cluster = wait_formed(lab, *nodes)
    assert said(nodes[0], "MUSTER_BOOTSTRAP_GRACE")
    third = lab.add_node()
    start(third)
    assert wait_formed(lab, *nodes, third) == cluster
    wait_said(lab, third, "promoted to voter")


@pytest.mark.core
def test_a_listed_node_that_comes_after_the_founding_becomes_a_voter_of_the_same_cluster(lab):
    """One of three fails to boot: the others found after the grace time; mended, it needs no care."""
    nodes = launch(lab, 3, size=3)
    *early, late = nodes
    start(*early)
    lab.wait(lambda: all(node.etcd.health() for node in early), BOUND, "two of three that serve")
    cluster = early[0].etcd.cluster_id()
    early[0].etcd.put("key", "early")
    start(late)
    assert wait_formed(lab, *nodes) == cluster
    assert late.etcd.get("key") == "early"


def test_a_founder_whose_look_outlasts_the_founding_takes_its_place(lab):
    """EC2 is slow to it meanwhile. What its look began with must not make a member with a lost disk of it."""
    *early, slow = nodes = launch(lab, 3, size=3)
    rank(lab, *early, slow)  # else the founding may be the slow one's to propose
    start(slow)
    wait_looks(lab, slow, more=1)
    asked = slow.front.calls["DescribeInstances"]
    slow.front.add(delayed(BOUND), action="DescribeInstances")
    lab.wait(lambda: slow.front.calls["DescribeInstances"] > asked, BOUND, "a look that waits for EC2")
    start(*early)
    lab.wait(lambda: all(node.etcd.health() for node in early), BOUND, "two of three that serve")
    ids = member_ids(early[0])
    slow.front.clear()
    wait_formed(lab, *nodes)
    assert member_ids(slow) == ids and not said(slow, "remove member")


def test_the_older_of_two_founds_alone_when_the_other_refuses_and_the_other_joins(lab):
    """Two nodes, one broken: the bootstrap goes on, and both are one cluster in the end."""
    older, younger = launch(lab, 2, size=2)
    rank(lab, older, younger)
    start(older)
    cluster = wait_formed(lab, older)
    assert younger.instance.id in said(older, "bootstrap alone: ")
    start(younger)
    assert wait_formed(lab, older, younger) == cluster


def test_the_younger_of_two_never_founds_alone_unless_the_operator_says_so(lab):
    """If both could, a cut between them would make two clusters; the way out is named."""
    older, younger = launch(lab, 2, size=2)
    rank(lab, older, younger)
    start(younger)
    reason = wait_said(lab, younger, "hold: ", "MUSTER_BOOTSTRAP_ALONE=yes")
    assert older.instance.id in reason
    wait_looks(lab, younger)
    assert no_etcd_ran(younger)
    assert stop(younger) == 0
    younger.env["MUSTER_FOUND_ALONE"] = "yes"
    start(younger)
    wait_said(lab, younger, "MUSTER_FOUND_ALONE is now MUSTER_BOOTSTRAP_ALONE")
    cluster = wait_formed(lab, younger)
    start(older)
    assert wait_formed(lab, older, younger) == cluster


def test_a_silent_other_of_two_counts_as_dead_only_when_ec2_calls_it_impaired(lab):
    """Silence may be a cut cable with a cluster behind it; EC2's own status check settles it."""
    older, younger = launch(lab, 2, size=2, MUSTER_PROBE_TIMEOUT="300ms")
    rank(lab, older, younger)
    with occupied(younger.address, PEER_PORT):
        start(older)
        wait_said(lab, older, "hold: ", "MUSTER_BOOTSTRAP_ALONE=yes")
        wait_looks(lab, older)
        assert no_etcd_ran(older)
        older.front.add(impaired(younger.instance.id))
        wait_formed(lab, older)
    assert "impaired" in said(older, "bootstrap alone: ")


def test_a_terminated_instance_in_the_listing_forbids_founding_without_the_absent(lab):
    """What was terminated may have been in a cluster that the absent one still holds; the operator can vouch."""
    *present, absent, gone = launch(lab, 4, size=3)
    lab.terminate(gone)
    start(*present)
    reason = lab.wait(
        lambda: next((said(n, "hold: ", "MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes") for n in present if said(n, "WITHOUT_ABSENT")), None),
        BOUND,
        "a hold that names the way out",
    )
    assert gone.instance.id in reason and absent.instance.id in reason
    wait_looks(lab, *present)
    assert no_etcd_ran(*present)
    for node in present:
        assert stop(node) == 0
        node.env["MUSTER_BOOTSTRAP_WITHOUT_ABSENT"] = "yes"
    start(*present)
    lab.wait(lambda: all(node.etcd.health() for node in present), BOUND, "two that serve")


def test_an_old_fleet_forbids_founding_without_the_absent(lab):
    """EC2 forgets terminated instances after an hour: an old fleet may have had a cluster nobody can see any more."""
    *present, absent = launch(lab, 3, size=3)
    old = present[0].instance.id
    lab.fault_ec2(launched(timedelta(hours=2), old))
    start(*present)
    reason = lab.wait(
        lambda: next((said(n, "hold: ", "MUSTER_BOOTSTRAP_WINDOW") for n in present if said(n, "BOOTSTRAP_WINDOW")), None),
        BOUND,
        "a hold that names the window",
    )
    assert old in reason and absent.instance.id in reason and "MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes" in reason
    wait_looks(lab, *present)
    assert no_etcd_ran(*present)
    # All of an old fleet may found at any age.
    start(absent)
    wait_formed(lab, *present, absent)


def test_without_a_size_a_fleet_of_four_waits_for_all_and_says_what_would_settle_it(lab):
    """Counting a partial listing proves nothing: the operator is told which variable ends the wait."""
    *present, absent = launch(lab, 4)
    start(*present)
    lab.wait(
        lambda: any(said(node, "hold: ", absent.instance.id, "MUSTER_CLUSTER_SIZE") for node in present),
        BOUND,
        "a hold that names the variable",
    )
    wait_looks(lab, *present, more=4)
    assert no_etcd_ran(*present)
    start(absent)
    wait_formed(lab, *present, absent)


# Never two, never beside another.


def test_nodes_that_are_shown_different_fleets_do_not_found_until_they_agree(lab):
    """EC2's listings lag behind launches: nodes that count different quorums must not decide anything together."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="1s", **PATIENT)
    nodes[0].front.add(hidden(nodes[2].instance.id))
    start(nodes[0])
    wait_said(lab, nodes[0], "hold: ")  # late, it would be absent, and founded without
    start(*nodes[1:])
    for node in nodes:
        lab.wait(lambda: said(node, "hold: "), BOUND, "a node that holds")
    assert lab.wait(lambda: any(said(n, "hold: ", "has a different bootstrap configuration") for n in nodes), BOUND, "the reason")
    wait_looks(lab, *nodes, more=5)
    assert no_etcd_ran(*nodes)
    lab.heal_ec2()
    wait_formed(lab, *nodes)


def test_nothing_is_founded_beside_a_peer_that_answers_nonsense(lab):
    """What can't be understood may be a cluster (a TLS port, another version): never read as none."""
    *present, strange = launch(lab, 3, size=3)
    with occupied(strange.address, PEER_PORT, b"SSH-2.0-OpenSSH_9.2\r\n"):
        start(*present)
        for node in present:
            wait_said(lab, node, "hold: ", strange.instance.id, "can't be used")
        lab.wait(
            lambda: all(looks_since(node, "can't be used") >= 5 for node in present),
            BOUND,
            "looks beyond the grace time",
        )
        assert no_etcd_ran(*present)
    start(strange)
    wait_formed(lab, *present, strange)


def test_survivors_without_quorum_forbid_a_second_cluster(lab):
    """Two of three disks are lost: the third may hold the only copy of acknowledged writes."""
    *wiped, survivor = form(lab, 3, size=3)
    cluster = survivor.etcd.cluster_id()
    since = lose_disks(lab, *wiped)
    start(survivor)
    lab.wait(survivor.etcd.peer_members, BOUND, "the survivor's etcd")  # absent for the grace time, it would be founded without
    start(*wiped)
    for node in wiped:
        reason = wait_said(lab, node, "hold: ", "has no proven quorum", since=since[node.address])
        assert survivor.instance.id in reason and cluster in reason
    wait_looks(lab, *wiped, more=5)
    assert not any(node.etcd_pids() for node in wiped)
    assert {member.peer_urls[0] for member in survivor.etcd.peer_members()} == {node.peer_url for node in lab.nodes}


def test_an_etcd_that_crash_loops_over_its_data_forbids_a_second_cluster(lab):
    """Two disks are lost and the third node's etcd can't start: its data must not be outvoted by empty nodes."""
    *wiped, broken = form(lab, 3, size=3)
    since = lose_disks(lab, *wiped)
    replace_etcd(broken, CRASH)
    start(broken)
    wait_said(lab, broken, "etcd exited with 2", since=since[broken.address])
    start(*wiped)
    for node in wiped:
        lab.wait(
            lambda: looks(node, since[node.address]) >= 8 or said(node, "start new: ", since=since[node.address]),
            BOUND,
            "looks beyond the grace time",
        )
        assert said(node, f"hold: {broken.instance.id} has etcd data", since=since[node.address])
        assert not said(node, "propose: ", since=since[node.address])
        assert not said(node, "start new: ", since=since[node.address])
    assert not any(node.etcd_pids() for node in wiped)


def test_a_wiped_member_never_runs_again_under_its_old_id(lab):
    """It may have voted under that id: with an empty log it could elect a leader that lacks acknowledged writes."""
    wiped, absent, broken = form(lab, 3, size=3)
    old = member_ids(wiped)[wiped.peer_url]
    wiped.etcd.put("key", "acknowledged")
    since = lose_disks(lab, wiped)
    replace_etcd(broken, CRASH)
    start(broken)
    wait_said(lab, broken, "etcd exited with 2", since=since[broken.address])
    start(wiped)
    lab.wait(
        lambda: looks(wiped, since[wiped.address]) >= 3 or said(wiped, "start new: ", since=since[wiped.address]),
        BOUND,
        "looks at the node that holds data",
    )
    assert not said(wiped, "start new: ", since=since[wiped.address])
    broken.power_off()
    restore_etcd(lab, broken)
    start(broken, absent)
    wait_formed(lab, *lab.nodes)
    assert member_ids(wiped)[wiped.peer_url] != old
    assert wiped.etcd.get("key") == "acknowledged"


def lose_disks(lab, *wiped):
    """Everything is powered off and these lose their disks; where each log stood."""
    for node in lab.nodes:
        node.power_off()
    for node in wiped:
        node.wipe()
    return {node.address: mark(node) for node in lab.nodes}


def test_two_nodes_with_one_name_do_not_found_and_are_told_which_variable(lab):
    """ETCD_NAME in a shared image: etcd would read two members of one name as one member with two addresses."""
    nodes = launch(lab, 3, size=3, ETCD_NAME="db")
    start(*nodes)
    lab.wait(lambda: any(said(node, "ETCD_NAME=db") for node in nodes), BOUND, "a reason that names ETCD_NAME")
    wait_looks(lab, *nodes)
    assert no_etcd_ran(*nodes)
    for place, node in enumerate(nodes):
        assert stop(node) == 0
        node.env["ETCD_NAME"] = f"db{place}"
    start(*nodes)
    wait_formed(lab, *nodes)
    assert {member.name for member in nodes[0].etcd.members()} == {"db0", "db1", "db2"}


def test_names_of_the_operators_choice_are_kept(lab):
    """ETCD_NAME passes through: the list names each member as its own node does."""
    nodes = launch(lab, 3, size=3)
    for place, node in enumerate(nodes):
        node.env["ETCD_NAME"] = f"db{place}"
    start(*nodes)
    wait_formed(lab, *nodes)
    assert {member.name for member in nodes[0].etcd.members()} == {"db0", "db1", "db2"}
    assert set(member_ids(nodes[0])) == {node.peer_url for node in nodes}


# A first life that is cut short.


HANGS = "exec sleep 1000"  # as an etcd does that asks a stalled peer for its members, or another that joins for its version


def test_an_etcd_that_never_serves_is_ended_and_started_again(lab):
    """Two founders that join late at the same moment wait for each other's version for ever (etcd#13623)."""
    nodes = launch(lab, 3, size=3)
    replace_etcd(nodes[2], f'[ -e "$ETCD_DATA_DIR/../hung" ] && exec $ETCD; : >"$ETCD_DATA_DIR/../hung"; {HANGS}')
    start(*nodes)
    wait_formed(lab, *nodes)
    assert said(nodes[2], "has not served its peer port")
