"""Stops while clients hold streams and connections, on releases that wait for them (3.5.16 and later)."""

from __future__ import annotations

import re
import socket

import pytest
from fleet import BOUND, etcd_pid, form, leader_of, said, start, stop, wait_formed, wait_said
from muster_tools.lab import install
from muster_tools.lab.watch import Watch

STATE = "autoscaling/target-lifecycle-state"


@pytest.fixture(params=[install.newest(series) for series in ("3.5.", "3.6.", "3.7.")])
def etcd_version(request):
    """Whatever --etcd says: the wheel's 3.5.1 closes everything at once. The lab skips what isn't installed."""
    return request.param


def idle(node) -> socket.socket:
    """Connected to the plain client port, and silent: what a pool or a balancer keeps ready. etcd waits for it without end."""
    return socket.create_connection((node.address, node.etcd.client_port), BOUND)


def signal_lines(node) -> list[str]:
    """etcd's own lines on a signal that it got."""
    return re.findall(r"received signal; shutting down", node.log_text())


def test_a_stop_with_clients_is_bounded_clean_and_loses_nothing(lab):
    """A watch and a silent connection held a stop up until SIGKILL after 25 s, and its unit was told 137."""
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    others = [node for node in nodes if node is not leader]
    with Watch(leader.etcd, "key") as watch, idle(leader):
        written = [f"key-{number}" for number in range(100)]
        for key in written:
            leader.etcd.put(key, "value")
        assert stop(leader) == 0
        lab.wait(lambda: watch.ended_at, BOUND, "the watch's end")
    text = leader.log_text()
    assert text.index("leadership moved to member") < text.index("received signal; shutting down")
    assert "MUSTER_DRAIN_TIMEOUT" in said(leader, "etcd still had clients"), "it was held up, and cut short"
    assert not leader.process.session()
    assert lab.wait(lambda: any(node.etcd.is_leader() for node in others), BOUND, "a leader")
    start(leader)
    wait_formed(lab, *nodes)
    for node in nodes:
        assert [key for key in written if node.etcd.get(key, serializable=True) != "value"] == []


def test_a_stop_that_nobody_holds_up_ends_by_itself(lab):
    """The bound is for clients that don't let go: an etcd that can end is never killed."""
    nodes = form(lab, 3, size=3, MUSTER_DRAIN_TIMEOUT="25s")  # far more than it takes
    assert stop(nodes[0]) == 0
    assert not said(nodes[0], "etcd still had clients")


def test_a_lone_member_is_left_the_time_it_takes(lab):
    """Nobody else has its data: its own end is waited for, however long its clients take, and a kill is told as one."""
    (node,) = form(lab, 1, size=1, MUSTER_STOP_TIMEOUT="20s")
    with Watch(node.etcd, "key"):
        assert stop(node) == 0
    assert said(node, "etcd has not ended after 3 s", "because 0 other voters are healthy, a quorum is 1")
    node.env["MUSTER_STOP_TIMEOUT"] = "4s"
    start(node)
    wait_formed(lab, node)
    with idle(node):
        assert stop(node) == 137


def test_without_a_quorum_of_the_others_nothing_is_cut_short(lab):
    """One of three is down: what the second has may be nowhere else but here."""
    nodes = form(lab, 3, size=3, MUSTER_STOP_TIMEOUT="20s")
    nodes[2].power_off()
    # It may have been the leader: until the next is elected nobody is healthy.
    lab.wait(lambda: all(node.etcd.health() for node in nodes[:2]), BOUND, "two healthy members")
    with Watch(nodes[0].etcd, "key"):
        assert stop(nodes[0]) == 0
    assert said(nodes[0], "etcd has not ended after 3 s", "because 1 other voters are healthy, a quorum is 2")


def test_who_has_left_sees_its_clients_off_at_once(lab):
    """A removed member gets no more events: a watch on it must not see nothing for the seven seconds of an orderly stop."""
    nodes = form(lab, 3, size=3, MUSTER_LEAVE="on-terminate")
    leaving = next(node for node in nodes if not node.etcd.is_leader())
    rest = [node for node in nodes if node is not leaving]
    pid = etcd_pid(leaving)
    with Watch(leaving.etcd, "key") as watch, idle(leaving):
        rest[0].etcd.put("key", "value")
        lab.wait(lambda: watch.events, BOUND, "an event")
        leaving.imds.meta_data[STATE] = "Terminated"
        wait_said(lab, leaving, "hold: this instance has left the cluster")
        lab.wait(lambda: watch.ended_at, BOUND, "the watch's end")
    assert pid and not signal_lines(leaving), "it was asked to stop, and drained"
    wait_formed(lab, *rest)
    assert stop(leaving) == 0
