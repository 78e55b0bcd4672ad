"""Members come and go: moved, replaced in numbers, orphaned, and cleaned away while nobody joins."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from fleet import (
    BOUND,
    PATIENT,
    etcd_pid,
    form,
    leader_of,
    lines,
    mark,
    member_ids,
    replace_etcd,
    said,
    start,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.ec2_faults import edited, hidden, shown_as
from muster_tools.lab.ec2_front import Ec2Front
from muster_tools.lab.imds import Imds

MANY_JOINERS = 10


def move(lab, node, address: str) -> None:
    """The instance has another private address from now on (an interface was replaced while it was stopped)."""
    old, instance = node.address, replace(node.instance, private_ip=address)

    def show(call, root) -> None:
        for shown in root.iter():
            if shown.text == old:
                shown.text = address

    node.detach()
    node.address = address
    node.attach(instance, Imds(instance, lab.ec2.role_credentials), Ec2Front(lab.ec2.url, address))
    node.secure(node.security)
    for one in lab.nodes:
        one.front.add(edited(show))


def follower(lab, nodes):
    """A member whose end costs the others no election."""
    leader = leader_of(lab, *nodes)
    return next(node for node in nodes if node is not leader)


def learners(node) -> list[str]:
    return [member.id for member in node.etcd.members() if member.learner]


# Moved.


@pytest.mark.core
def test_a_member_with_a_new_address_publishes_it_and_stays_the_same_member(lab):
    """Its log is good; only the others must learn where it is. Removing and adding it would copy everything again."""
    nodes = form(lab, 3, size=3, **PATIENT)  # its first look must see the quorum
    before = member_ids(nodes[0])
    moved = follower(lab, nodes)  # so that the others keep their quorum, and are told before its etcd runs
    member = before[moved.peer_url]
    moved.power_off()
    move(lab, moved, f"{lab.network}.99")
    since = mark(moved)
    start(moved)
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0])[moved.peer_url] == member
    spoken = lines(moved, since)
    told = spoken.index(f"update self: member {member} is listed under another peer URL than this node has now")
    assert told < spoken.index("resume: starting etcd with its existing data")


@pytest.mark.core
def test_a_member_that_moved_while_no_quorum_could_be_told_tells_it_once_there_is_one(lab):
    """Without it there is no quorum, so it starts under its old address; from there it reaches the others, and they don't
    reach it. So it is, too, where the leader moved and is back before the others have elected another."""
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    moved, dead, stays = nodes
    member = before[moved.peer_url]
    dead.power_off()
    moved.power_off()
    move(lab, moved, f"{lab.network}.99")
    since = mark(moved)
    start(moved)
    wait_said(lab, moved, f"update self: member {member}", "now it is listed at", moved.peer_url, since=since)
    assert said(moved, "resume: starting etcd with its existing data", since=since)
    start(dead)
    wait_formed(lab, *nodes)
    assert member_ids(stays)[moved.peer_url] == member


# Replaced.


def test_two_of_five_are_replaced_at_once(lab):
    """A zone is lost and its group launches both anew: one change at a time, and no joiner gives up."""
    nodes = form(lab, 5, size=5)
    nodes[0].etcd.put("key", "value")
    dead = nodes[3:]
    for node in dead:
        lab.terminate(node)
    joiners = [lab.add_node() for _ in dead]
    start(*joiners)
    wait_formed(lab, *nodes[:3], *joiners, bound=2 * BOUND)
    assert joiners[1].etcd.get("key") == "value"


@pytest.mark.parametrize("forgotten", [False, True], ids=["terminated", "forgotten by EC2"])
def test_a_joiner_that_dies_as_a_learner_blocks_nobody(lab, forgotten):
    """etcd takes one learner at a time: an orphan would keep all others out for ever. It has no name yet, and EC2 shows no address of
    an instance that is gone, which after an hour it doesn't know at all."""
    nodes = form(lab, 3, size=3)
    lab.terminate(nodes.pop())
    joiner = lab.add_node()
    replace_etcd(joiner, "exec sleep 1000")  # as one that is slow to start: it never publishes a name
    start(joiner)
    lab.wait(lambda: joiner.peer_url in member_ids(nodes[0]), BOUND, "a joiner that was added")
    lab.terminate(joiner)
    second = lab.add_node()
    if forgotten:
        second.front.add(hidden(joiner.instance.id))
    start(second)
    wait_formed(lab, *nodes, second)


def test_a_joiner_that_restarts_as_a_learner_goes_on(lab):
    nodes = form(lab, 3, size=3)
    lab.terminate(nodes.pop())
    joiner = lab.add_node()
    start(joiner)
    lab.wait(lambda: joiner.peer_url in member_ids(nodes[0]), BOUND, "a joiner that was added")
    joiner.power_off()
    start(joiner)
    wait_formed(lab, *nodes, joiner)


def test_ten_joiners_queue_and_become_members_one_by_one(lab):
    """A cluster that is scaled out all at once: learners one at a time, nobody exits, nobody is added twice."""
    nodes = form(lab, 3, size=3)
    lab.env["MUSTER_CLUSTER_SIZE"] = str(3 + MANY_JOINERS)
    joiners = [lab.add_node() for _ in range(MANY_JOINERS)]
    start(*joiners)
    most = 0

    def all_joined() -> bool:
        nonlocal most
        most = max(most, len(learners(nodes[0])))
        return len(member_ids(nodes[0])) == 3 + MANY_JOINERS and not learners(nodes[0])

    lab.wait(all_joined, 4 * BOUND, f"{MANY_JOINERS} new voters")
    wait_formed(lab, *nodes, *joiners)
    assert most == 1
    for joiner in joiners:
        assert sum("add self: " in line for line in joiner.log_text().splitlines()) >= 1
        assert joiner.runs()


# Cleaned while nobody joins (MUSTER_REMOVE_INTERVAL).


def form_reconciled(lab, count: int, **env: str):
    return form(lab, count, size=count, MUSTER_REMOVE_INTERVAL="500ms", **env)


def test_the_leaders_supervisor_removes_a_terminated_member_that_nobody_replaces(lab):
    nodes = form_reconciled(lab, 3)
    dead = next(node for node in nodes if not node.etcd.is_leader())
    rest = [node for node in nodes if node is not dead]
    lab.terminate(dead)
    wait_formed(lab, *rest)
    removers = lambda: [node for node in rest if said(node, "reconcile: removed member", dead.instance.id)]
    assert len(lab.wait(removers, BOUND, "who removed it")) == 1


def test_no_cluster_is_shrunk_so_far_that_fresh_instances_could_outvote_it(lab):
    """Five: one may go. The second stays until its replacement comes."""
    nodes = form_reconciled(lab, 5)
    first, second = [node for node in nodes if not node.etcd.is_leader()][:2]
    rest = [node for node in nodes if node not in (first, second)]
    lab.terminate(first)
    lab.wait(lambda: len(member_ids(rest[0])) == 4, BOUND, "four members")
    lab.terminate(second)
    lab.wait(lambda: any(said(node, "reconcile: ", "could outvote") for node in rest), BOUND, "the leader's reason")
    assert len(member_ids(rest[0])) == 4
    joiner = lab.add_node()
    start(joiner)
    lab.wait(lambda: second.peer_url not in member_ids(rest[0]), BOUND, "a removal for the joiner")
    wait_formed(lab, *rest, joiner)


@pytest.mark.parametrize("silence", ["paused", "stopped", "stopping"])
def test_who_is_not_gone_by_ec2s_word_is_never_removed(lab, silence):
    """Rebooting, hanging, or stopped for a resize: silent, and a member all the same."""
    nodes = form_reconciled(lab, 3)
    quiet = next(node for node in nodes if not node.etcd.is_leader())
    rest = [node for node in nodes if node is not quiet]
    before = member_ids(leader_of(lab, *rest))
    if silence == "paused":
        for pid in [etcd_pid(quiet), quiet.process.pid]:
            os.kill(pid, signal.SIGSTOP)
    else:
        lab.stop_instances(quiet)
        if silence == "stopping":
            lab.fault_ec2(shown_as("stopping", quiet.instance.id))
    kept = f"{quiet.instance.id} exists"
    lab.wait(lambda: any(said(node, "reconcile: member ", kept) for node in rest), BOUND, "the leader's reason")
    listings = lambda: sum(node.front.calls["DescribeInstances"] for node in rest)
    calls = listings()
    lab.wait(lambda: listings() >= calls + 2, BOUND, "two more listings")
    assert member_ids(rest[0]) == before


def test_nothing_is_reconciled_while_ec2_is_out_of_sight(lab):
    nodes = form_reconciled(lab, 3)
    dead = next(node for node in nodes if not node.etcd.is_leader())
    rest = [node for node in nodes if node is not dead]
    for node in rest:
        node.front.stop()
    lab.terminate(dead)
    before = member_ids(leader_of(lab, *rest))
    lab.wait(lambda: any(said(node, "reconcile: ", "EC2 can't be queried") for node in rest), BOUND, "the leader's reason")
    assert member_ids(rest[0]) == before and not any(said(node, "is removed: ") for node in rest)


def test_off_means_off(lab):
    """MUSTER_REMOVE=off: a replacement waits for an operator, and says so."""
    nodes = form(lab, 3, size=3, MUSTER_CLEAN="off")  # by its former name
    assert said(nodes[0], "MUSTER_CLEAN is now MUSTER_REMOVE; the old name still works")
    dead = nodes.pop()
    lab.terminate(dead)
    joiner = lab.add_node()
    start(joiner)
    wait_said(lab, joiner, "hold: spare", "MUSTER_REMOVE=off")
    wait_looks(lab, joiner)
    assert not joiner.etcd_pids() and dead.peer_url in member_ids(nodes[0])
