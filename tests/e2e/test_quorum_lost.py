"""A cluster that lost its quorum says so at every member that is left: who is missing, and what can be done."""

from __future__ import annotations

import json
import os
import signal

import pytest
from fleet import (
    BOUND,
    command,
    etcd_pid,
    form,
    leader_of,
    lines,
    mark,
    member_ids,
    occupied,
    replace_etcd,
    said,
    start,
    stop,
    wait_formed,
    wait_said,
)
from muster_tools.lab.etcd import PEER_PORT


def health(lab, node, *arguments):
    done = command(lab, node, "health", "--cluster", *arguments)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.core
def test_who_is_left_says_who_is_missing_and_when_it_is_back(lab):
    """Whoever looks into any log that is left must find there what happened, and what to do."""
    nodes = form(lab, 5, size=5)
    ids = member_ids(nodes[0])
    left, dead, silent = nodes[:2], nodes[2:4], nodes[4]
    for node in (*dead, silent):
        node.power_off()
    with occupied(silent.address, PEER_PORT):
        for node in left:
            line = wait_said(lab, node, "the quorum is lost: 2 of 5 voters answer, 3 are needed", silent.instance.id)
            for gone in dead:
                assert f"{gone.instance.id} (member {ids[gone.peer_url]}, {gone.peer_url}) refuses" in line
            assert f"({ids[silent.peer_url]}" not in line and f"{silent.peer_url}) does not answer" in line
            assert "until 1 of them is back" in line
    # The set changes: one of the two that are left goes, too.
    since = mark(left[0])
    left[1].power_off()
    wait_said(lab, left[0], "the quorum is lost: 1 of 5 voters answer", left[1].instance.id, since=since)
    since = mark(left[0])
    start(left[1], *dead)
    wait_said(lab, left[0], "the quorum is back after", since=since)
    start(silent)
    wait_formed(lab, *nodes)
    assert len([line for line in lines(left[0]) if "the quorum is back" in line]) == 1
    assert said(left[0], "the quorum is lost", since=mark(left[0])) is None


def test_a_member_that_starts_without_a_quorum_says_it_as_well(lab):
    """After a power cut the first to come back waits for the others: it knows whom for."""
    nodes = form(lab, 3, size=3)
    for node in nodes:
        assert stop(node) == 0
    start(nodes[0])
    line = wait_said(lab, nodes[0], "the quorum is lost: 1 of 3 voters answer, 2 are needed")
    assert all(node.peer_url in line for node in nodes[1:]) and nodes[0].peer_url not in line
    start(nodes[1])
    wait_said(lab, nodes[0], "the quorum is back")


def test_a_leader_that_changes_is_no_quorum_lost(lab):
    """An election takes a second or two; nobody must be called over that."""
    nodes = form(lab, 3, size=3)
    for _ in range(2):
        leader = leader_of(lab, *nodes)
        leader.power_off()
        start(leader)
        wait_formed(lab, *nodes)
    assert not any(said(node, "the quorum is lost") for node in nodes)


def test_health_of_a_cluster_without_a_quorum_has_a_line_a_member(lab):
    """The operator asks just when the quorum is gone; `no member returns the member list` helped nobody."""
    nodes = form(lab, 3, size=3)
    for node in nodes[1:]:
        node.power_off()
    urls = {node.client_url for node in nodes}
    lab.wait(lambda: not nodes[0].etcd.health(), BOUND, "an unhealthy etcd")
    for arguments in ((), ("--endpoint", nodes[0].client_url)):
        code, shown, trouble = health(lab, nodes[0], *arguments)
        assert code == 1 and {line.partition(": ")[0] for line in shown} == urls, (shown, trouble)
    code, shown, _ = health(lab, nodes[0], "--json")
    assert code == 1 and {one["endpoint"] for one in json.loads("".join(shown))} == urls
    assert not any(one["healthy"] for one in json.loads("".join(shown)))
    # Its own etcd doesn't start any more: the supervisor remembers.
    replace_etcd(nodes[0], "exit 1")
    os.kill(etcd_pid(nodes[0]), signal.SIGKILL)
    wait_said(lab, nodes[0], "etcd was ended by signal 9")
    code, shown, trouble = health(lab, nodes[0])
    assert code == 1 and {line.partition(": ")[0] for line in shown} == urls
    assert "that this node's supervisor saw last" in trouble
    code, shown, trouble = health(lab, nodes[1])
    assert code == 1 and "no member returns the member list" in trouble, "neither etcd nor supervisor runs there"
