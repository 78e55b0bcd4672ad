"""The benchmark's client of a cluster that is upgraded: it finds what a store must not say, and counts what it did not acknowledge."""

import signal
import socket
import time

import pytest
from muster_tools.bench import client, upgrade
from muster_tools.bench.history import History, Put, Read, violations
from muster_tools.lab import install
from muster_tools.lab.etcd import CLIENT_PORT
from muster_tools.lab.node import Lab, static_list_arguments


def put(number, called, answered, revision=None):
    return Put(number, called, answered, revision)


def read(number, called, answered, revision, found):
    return Read(number, called, answered, revision, found)


def told(*answers):
    return History([one for one in answers if isinstance(one, Put)], [one for one in answers if isinstance(one, Read)])


@pytest.mark.parametrize(
    ("answers", "stored"),
    [
        ([], {}),
        ([put(0, 0, 1, 2), put(1, 2, 3, 3), read(1, 4, 5, 3, 3)], {0: 2, 1: 3}),
        ([put(0, 0, 5, 3), put(1, 1, 6, 2)], {0: 3, 1: 2}),  # at once: in any order
        ([put(0, 0, 1, 2), put(1, 2, 9), read(0, 3, 4, 3, 2)], {0: 2, 1: 3}),  # not acknowledged, and there
        ([put(0, 0, 1, 2), put(1, 2, 9), read(0, 3, 4, 2, 2)], {0: 2}),  # not acknowledged, and not there
    ],
)
def test_what_a_linearizable_store_says_is_accepted(answers, stored):
    assert violations(told(*answers), stored) == []


@pytest.mark.parametrize(
    ("answers", "stored", "words"),
    [
        ([put(0, 0, 1, 2)], {}, "is in the end missing"),
        ([put(0, 0, 1, 2)], {0: 3}, "is in the end at revision 3"),
        ([put(0, 0, 1, 3), put(1, 2, 3, 2)], {0: 3, 1: 2}, "came after an answer of revision 3"),
        ([put(0, 0, 1, 2), put(1, 2, 3, 3), read(0, 4, 5, 2, 2)], {0: 2, 1: 3}, "came after an answer of revision 3"),
        ([put(0, 0, 1, 2), read(0, 2, 3, 2, None)], {0: 2}, "was missing"),
        ([put(0, 0, 1, 2), read(0, 2, 3, 5, 2), put(1, 4, 5, 5)], {0: 2, 1: 5}, "came after an answer of revision 5"),
    ],
)
def test_what_none_says_is_named(answers, stored, words):
    (line,) = violations(told(*answers), stored)
    assert words in line


def test_what_is_not_acknowledged_is_told_with_its_reason():
    """Of three members one is killed: writes go on at the others, and each acknowledged one is found through both of them."""
    with Lab() as lab:
        nodes = [lab.add_node(launch=False) for _ in range(3)]
        for node in nodes:
            node.start_plain_etcd(static_list_arguments(node, nodes))
        lab.wait(lambda: all(node.etcd.health() for node in nodes), 20, "three healthy etcds")
        follower = next(node for node in nodes if not node.etcd.is_leader())
        with client.Running(node.address for node in nodes) as running:
            time.sleep(1)
            follower.kill(signal.SIGKILL)
            follower.wait_exit(10)
            gone = time.monotonic()
            time.sleep(1)
            history = running.stop()
        later = [one for one in history.acknowledged() if one.called > gone]
        assert later and history.reads
        assert all(one.why for one in history.puts if one.revision is None)
        for node in nodes:
            if node is not follower:
                stored = upgrade.stored(node)
                assert violations(history, stored) == []
                assert violations(history, {number: at for number, at in stored.items() if number != later[0].number})


def test_a_client_whom_nobody_answers_says_so():
    with Lab() as lab, client.Running([lab.add_node(launch=False).address]) as running:
        time.sleep(1)
        history = running.stop()
    assert history.puts and {one.why for one in history.puts} == {"refused by all"} and not history.reads


def test_a_member_that_is_silent_holds_up_no_write_at_the_others():
    """It takes connections and never answers, as one does whose puts were lost with their leader: many more than it may owe."""
    with Lab() as lab:
        node, mute = (lab.add_node(launch=False) for _ in range(2))
        node.start_plain_etcd(static_list_arguments(node, [node]))
        lab.wait(node.etcd.health, 20, "a healthy etcd")
        with socket.create_server((mute.address, CLIENT_PORT), backlog=1024), client.Running([node.address, mute.address]) as running:
            time.sleep(client.PATIENCE_SECONDS + 1)
            history = running.stop()
    silent = [one for one in history.puts if one.why == "silent"]
    assert len(silent) > 2 * client.OWED
    first = min(one.called for one in silent)
    waited = [one for one in history.acknowledged() if first + client.OWED_SECONDS < one.called < first + client.PATIENCE_SECONDS]
    assert len(waited) > 2 * client.OWED, "the client told of its own patience"


def test_each_step_goes_one_minor_up():
    minors = [install.number(release)[:2] for step in upgrade.steps() for release in step]
    assert minors == [[3, 4], [3, 5], [3, 5], [3, 6], [3, 6], [3, 7]]
    assert [new for _, new in upgrade.steps() if new in upgrade.needed(quick=True)] == [install.newest("3.5."), install.newest("3.6.")]
