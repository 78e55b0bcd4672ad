"""From one release of etcd to the next: what may start, what holds, and that nothing written is lost on the way."""

import os
import signal
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    command,
    form,
    launch,
    mark,
    member_ids,
    put_etcd,
    said,
    start,
    stop,
    tree,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.bench import upgrade

THE_WAY = ["3.4.23", "3.5.33", "3.6.16", "3.7.3"]


def form_on(lab, release: str, count: int, **env: str):
    nodes = launch(lab, count, size=count, **env)
    for node in nodes:
        put_etcd(node, release)
    start(*nodes)
    wait_formed(lab, *nodes)
    return nodes


def roll(lab, nodes, release: str) -> None:
    """One after another, each once the one before is healthy again, as `systemctl restart` on each host does."""
    for node in nodes:
        put_etcd(node, release)
        assert stop(node) == 0
        start(node)
        wait_formed(lab, *nodes)
    minor = ".".join(release.split(".")[:2])
    stepped = lambda: all(node.etcd.peer_version()["etcdcluster"].startswith(f"{minor}.") for node in nodes)
    lab.wait(stepped, BOUND, f"a cluster of version {minor}")


def wait_ready_for(lab, nodes, release: str) -> None:
    """Each says so itself: what its data lacks for that release it makes by itself, and it may be restarted for that."""
    for node in nodes:
        check = lambda: command(lab, node, "upgrade", "--check", release)
        lab.wait(lambda: check().returncode == 0, 3 * BOUND, f"{node.address} ready for {release}")


def ask_health(node) -> None:
    """As a monitor that watches etcd does. On 3.4 each question is written to the log."""
    assert node.etcd.request("GET", "/health", node.etcd.client_port)[0] == 200


def test_a_quiet_cluster_goes_from_3_4_to_3_7(lab):
    """Few writes, so that no etcd writes a raft snapshot of its own accord: by hand it doesn't come up on 3.6, nor on 3.7."""
    first, *later = THE_WAY
    nodes = form_on(lab, first, 3)
    members = member_ids(nodes[0])
    for node in nodes:
        ask_health(node)
    for place, release in enumerate(later):
        nodes[0].etcd.put(f"before {release}", str(place))
        wait_ready_for(lab, nodes, release)
        roll(lab, nodes, release)
    for node in nodes:
        for place, release in enumerate(later):
            assert node.etcd.get(f"before {release}") == str(place)
    assert member_ids(nodes[0]) == members, "a member was replaced on the way"


def test_a_release_is_never_left_out(lab):
    """3.7 over data of 3.5 comes down over it again and again; held, it waits for the right etcd, and needs no restart then."""
    (node,) = form_on(lab, "3.5.33", 1)
    node.etcd.put("key", "value")
    assert stop(node) == 0
    before = tree(node.data / "member", node.wal)
    put_etcd(node, "3.7.3")
    start(node)
    line = wait_said(lab, node, "hold: the etcd here is 3.7.3", "3.5", "run 3.6 on every member first")
    wait_looks(lab, node)
    assert not node.etcd_pids() and tree(node.data / "member", node.wal) == before, line
    put_etcd(node, "3.6.16")
    wait_formed(lab, node)
    assert node.etcd.get("key") == "value"
    # Its log is behind a raft snapshot soon.
    wait_ready_for(lab, [node], "3.7.3")
    roll(lab, [node], "3.7.3")
    assert node.etcd.get("key") == "value"


@pytest.mark.parametrize("older", ["3.6.16", "3.5.33", "3.4.23"])
def test_an_older_etcd_never_starts_on_newer_data(lab, older):
    """3.4 starts on it without a word, shows all keys, and no 3.7 can follow it."""
    (node,) = form_on(lab, "3.7.3", 1)
    node.etcd.put("key", "value")
    assert stop(node) == 0
    before = tree(node.data / "member", node.wal)
    put_etcd(node, older)
    start(node)
    wait_said(lab, node, f"hold: the etcd here is {older}", "install 3.7 again")
    wait_looks(lab, node)
    assert not node.etcd_pids() and tree(node.data / "member", node.wal) == before
    put_etcd(node, "3.7.3")
    wait_formed(lab, node)
    assert node.etcd.get("key") == "value"


@pytest.mark.parametrize("joiner, cluster", [("3.5.33", "3.6.16"), ("3.7.3", "3.6.16"), ("3.7.3", "3.5.33")])
def test_a_node_that_cannot_join_leaves_no_entry_behind(lab, joiner, cluster):
    """An entry that never starts blocks every step of the cluster's version, up and down."""
    nodes = form_on(lab, cluster, 3)
    lab.terminate(nodes.pop())
    late = lab.add_node()
    put_etcd(late, joiner)
    start(late)
    wait_said(lab, late, f"hold: the etcd here is {joiner}")
    wait_looks(lab, late)
    assert len(member_ids(nodes[0])) == 3 and late.peer_url not in member_ids(nodes[0])
    put_etcd(late, cluster)
    wait_formed(lab, *nodes, late)


def test_an_etcd_that_is_swapped_while_it_runs_is_judged_at_its_next_start(lab):
    """An operator puts the file in its place and kills etcd: the supervisor asks the file anew what it is."""
    (node,) = form_on(lab, "3.5.33", 1)
    put_etcd(node, "3.7.3")
    (pid,) = node.etcd_pids()
    os.kill(pid, signal.SIGKILL)
    wait_said(lab, node, "hold: the etcd here is 3.7.3")
    wait_looks(lab, node)
    assert not node.etcd_pids()
    put_etcd(node, "3.5.33")
    wait_formed(lab, node)


@pytest.mark.parametrize(
    "text, code, line",
    [
        ("#!/bin/sh\necho usage: etcd\n", None, "hold: the etcd here does not report its release: "),
        ("#!/bin/sh\necho etcd Version: main\n", None, "hold: the etcd here does not report its release: "),
        ("no program at all\n", 72, "etcd can't be run: Exec format error"),
    ],
)
def test_what_is_no_etcd_is_said(lab, text, code, line):
    """A script in its place, a release that can't be told, a binary of another machine: data is untouched."""
    (node,) = form_on(lab, "3.5.33", 1)
    assert stop(node) == 0
    before = tree(node.data / "member", node.wal)
    program = node.home / "bin" / "etcd"
    program.unlink()
    program.write_text(text)
    program.chmod(0o755)
    since = mark(node)
    start(node)
    if code is None:
        wait_said(lab, node, line, since=since)
        wait_looks(lab, node)
    else:
        assert node.wait_exit(BOUND) == code
        assert said(node, line, since=since)
    assert not node.etcd_pids() and tree(node.data / "member", node.wal) == before


def test_founders_of_releases_that_do_not_work_together_found_nothing(lab):
    """3.5 beside 3.7: the one would never come up, and the two others would count on it."""
    nodes = launch(lab, 3, size=3)
    for node, release in zip(nodes, ["3.5.33", "3.5.33", "3.7.3"]):
        put_etcd(node, release)
    start(*nodes)
    lab.wait(lambda: any(said(node, "the two don't work together") for node in nodes), BOUND, "a node that says so")
    wait_looks(lab, *nodes)
    assert not any(node.etcd_pids() for node in nodes)
    put_etcd(nodes[2], "3.5.33")
    wait_formed(lab, *nodes)


def test_promotions_that_were_forgotten_are_written_down_before_3_6(lab):
    """Members that joined on 3.5.1 stay learners in the others' backends. 3.6 doesn't start over two of them.

    Rolled to 3.5.33, one of five backends has the others as voters, and the last has three of them as learners still.
    """
    nodes = form_on(lab, "3.5.1", 5)
    for _ in range(5):
        lab.terminate(nodes.pop(0))
        joiner = lab.add_node()
        put_etcd(joiner, "3.5.1")
        start(joiner)
        nodes.append(joiner)
        wait_formed(lab, *nodes)
    roll(lab, nodes, "3.5.33")
    wait_ready_for(lab, nodes, "3.6.16")
    assert any(said(node, "the data here still lists it as a learner") for node in nodes)
    roll(lab, nodes, "3.6.16")


@pytest.mark.parametrize("release", ["3.4.23", "3.5.33", "3.6.16"])
def test_the_benchmark_by_hand_has_our_settings(lab, release):
    """Else the two sides of its upgrades would not do the same: the corruption check, for one, is part of every start."""
    (node,) = form_on(lab, release, 1)
    (pid,) = node.etcd_pids()
    variables = dict(one.split("=", 1) for one in Path(f"/proc/{pid}/environ").read_text().split("\0") if one)
    places = ("ETCD_NAME", "ETCD_DATA_DIR", "ETCD_WAL_DIR")
    ours = {name: value for name, value in variables.items() if name.startswith("ETCD_") and name not in places}
    assert {name: value for name, value in ours.items() if "_URLS" not in name and "_INITIAL_CLUSTER" not in name} == upgrade.settings(release)
