"""One member becomes three, then five, then three again: by MUSTER_CLUSTER_SIZE and `etcd-muster leave`, as docs/operations.md says."""

from __future__ import annotations

import json

import pytest
from byhand import Writer
from fleet import BOUND, command, launch, leader_of, mark, member_ids, said, start, stop, wait_formed, wait_looks, wait_said
from muster_tools.lab.node import Lab, Node


def members_of(nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if node.etcd_pids()]


def set_size(lab: Lab, nodes: list[Node], size: int, *, member_count: int) -> None:
    """On every node, one after the other: who is a member is waited for, so that no two are down at once."""
    lab.env["MUSTER_CLUSTER_SIZE"] = str(size)
    for node in nodes:
        since = mark(node)
        was_member = bool(node.etcd_pids())
        node.env["MUSTER_CLUSTER_SIZE"] = str(size)
        assert stop(node) == 0
        start(node)
        if was_member:
            wait_said(lab, node, "is healthy and votes", since=since)
            lab.wait(node.etcd.health, BOUND, "a healthy member")
        else:
            lab.wait(lambda: said(node, "is healthy and votes", since=since) or said(node, "hold: spare", since=since), BOUND, "a place")
    lab.wait(lambda: len(members_of(nodes)) == member_count, BOUND, f"{member_count} members")
    wait_formed(lab, *members_of(nodes))


@pytest.mark.core
def test_one_three_five_and_back_to_three(lab):
    nodes = launch(lab, 5, size=1)
    start(*nodes)
    lab.wait(lambda: len(members_of(nodes)) == 1, BOUND, "one member")
    (first,) = members_of(nodes)
    wait_formed(lab, first)
    cluster = first.etcd.cluster_id()
    for node in nodes:
        if node is not first:
            wait_said(lab, node, "hold: spare: cluster", "has all its 1 members")
    ordered = [first, *(node for node in nodes if node is not first)]
    with Writer(*nodes) as writer:
        writer.wait_more(lab)

        # Up: the setting, node by node. Who was told another size than the cluster has says so.
        set_size(lab, ordered, 3, member_count=3)
        assert said(first, "the cluster has 1 member, and MUSTER_CLUSTER_SIZE is 3 here: 2 more instances may join")
        writer.wait_more(lab)
        set_size(lab, ordered, 5, member_count=5)
        assert any(said(node, "the cluster has 3 members, and MUSTER_CLUSTER_SIZE is 5 here") for node in nodes)
        writer.wait_more(lab)

        # Down: the setting on every node first, so that nobody takes a place that is to go.
        set_size(lab, ordered, 3, member_count=5)
        for node in nodes:
            assert said(node, "the cluster has 5 members, and MUSTER_CLUSTER_SIZE is 3 here: to shrink it, run etcd-muster leave on 2 nodes")
        assert "; MUSTER_CLUSTER_SIZE is 3 here" in command(lab, first, "status").stdout
        (new,) = launch(lab, 1)
        start(new)
        wait_said(lab, new, "hold: spare: cluster", "has 5 members, more than MUSTER_CLUSTER_SIZE=3 here")
        left = []
        for leaving in (leader_of(lab, *nodes), first):
            leaving = leaving if leaving not in left else next(node for node in nodes if node not in left)
            staying = [node for node in nodes if node not in [*left, leaving]]
            writer.nodes = staying
            done = command(lab, leaving, "leave")
            assert done.returncode == 0 and "this node has left the cluster (etcd-muster leave was run here)" in done.stdout, done
            left.append(leaving)
            wait_formed(lab, *staying)
            assert not leaving.etcd_pids()
            writer.wait_more(lab)
        # Nobody comes back by itself, nor takes a place: not over a restart, not as a spare, not from before.
        since = {node: mark(node) for node in left}
        for node in left:
            assert stop(node) == 0
            start(node)
        for node in left:
            wait_said(lab, node, "hold: this node has left the cluster", since=since[node])
        wait_looks(lab, new, *left)
        wait_formed(lab, *staying)
        assert {node.etcd.cluster_id() for node in staying} == {cluster}
        assert command(lab, staying[0], "health", "--cluster").returncode == 0
        listed = json.loads(command(lab, staying[0], "members", "--json").stdout)["members"]
        assert len(listed) == 3

        # The way back in is the operator's word, and then it is a spare like any other.
        done = command(lab, left[0], "leave", "--cancel")
        assert done.returncode == 0 and "the request is taken back" in done.stdout
        wait_said(lab, left[0], "hold: spare", since=since[left[0]])
        writer.wait_more(lab)
    for node in staying:
        assert not writer.lost(node)


@pytest.mark.core
def test_nobody_leaves_by_command_who_is_needed(lab):
    nodes = launch(lab, 3, size=3)
    start(*nodes)
    wait_formed(lab, *nodes)
    before = member_ids(nodes[0])
    down, leaving, other = nodes
    down.power_off()
    # (The one that is down may have led: until another does, that is the reason.)
    why = "this member must not leave now: 1 other voters are healthy, removing it needs 2"
    asked = lambda: (done := command(lab, leaving, "leave")).returncode == 1 and why in done.stderr
    lab.wait(asked, BOUND, "the refusal")
    start(down)
    wait_formed(lab, *nodes)
    # Nothing of what was refused is left: it doesn't leave later, when it could.
    assert not list((leaving.data / "muster").glob("leave*")) and member_ids(other) == before
    nothing = command(lab, leaving, "leave", "--cancel")
    assert nothing.returncode == 0 and "nothing asks this node to leave" in nothing.stdout
    leaving.power_off()
    assert command(lab, leaving, "leave").returncode == 69, "no supervisor runs there"
