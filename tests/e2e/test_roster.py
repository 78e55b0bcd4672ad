"""MUSTER_HOSTS: where there is no EC2, the hosts that an operator wrote down become one cluster, under the same rules.

Each node is in a network namespace of its own, so that a host's addresses are its own. A hub is a whole process: each test runs as
one, this file as a script with the test's name. Whatever would be AWS is a listener that nobody may call.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest
from fleet import BOUND, COMMAND_BOUND, QUICK, etcd_pid, mark, said, start, stop, wait_formed, wait_looks, wait_said
from muster_tools.lab import netns
from muster_tools.lab.netns import Hub
from muster_tools.lab.node import Lab, Node

HUB_BOUND = 240  # for one test as a process
TRUNCATED = '[{"host": "db-1", "address": "10.77.0.11"}, {"ho'


def in_a_hub(test):
    def run(binary, etcd_version):
        trouble = netns.why_not()
        if trouble:
            pytest.skip(trouble)
        # Together with what it started, should it hang.
        command = [sys.executable, test.__globals__["__file__"], test.__name__, str(binary), etcd_version]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            try:
                output, _ = child.communicate(timeout=HUB_BOUND)
            except subprocess.TimeoutExpired:
                child.terminate()
                output, _ = child.communicate()
            assert child.returncode == 0, output

    run.__name__, run.__doc__, run.inside = test.__name__, test.__doc__, test
    return run


@contextmanager
def aws_that_nobody_calls(address: str):
    with closing(socket.create_server((address, 0), backlog=8)) as listener:
        callers = []

        def accept() -> None:
            while True:
                try:
                    connection, caller = listener.accept()
                except OSError:
                    return
                connection.close()
                callers.append(caller)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://{address}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    assert not callers, f"AWS was called by {callers}"


@contextmanager
def a_lab(binary: str, etcd: str):
    hub = Hub().enter()
    with aws_that_nobody_calls(hub.address) as url, Lab(etcd=etcd, muster=Path(binary), env=QUICK, hub=hub) as lab:
        lab.env |= {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "MUSTER_CLUSTER_SIZE": "3"}
        yield lab


def hosts(lab: Lab, *names: str, **env: str) -> list[Node]:
    """Hosts of these names, each with a roster file of its own that isn't there yet."""
    nodes = []
    for name in names:
        node = lab.add_node(launch=False)
        node.name = name
        node.roster = node.directory / "roster.json"
        node.env |= {"MUSTER_HOSTS": f"file:{node.roster}", **env}
        nodes.append(node)
    return nodes


def entry(node: Node, **more: str) -> dict[str, str]:
    return {"host": node.name, "address": node.address, **more}


def write(entries: list[dict[str, str]], *nodes: Node) -> None:
    """The list on each of these hosts, at once as an editor that renames puts it there."""
    for node in nodes:
        draft = node.roster.with_suffix(".new")
        draft.write_text(json.dumps(entries, indent=1))
        draft.replace(node.roster)


def form(lab: Lab, **env: str) -> list[Node]:
    nodes = hosts(lab, "db-1", "db-2", "db-3", **env)
    write([entry(node) for node in nodes], *nodes)
    start(*nodes)
    wait_formed(lab, *nodes)
    return nodes


def no_etcd_ran(*nodes: Node) -> bool:
    return not any(node.etcd_pids() or said(node, "etcd runs as process") for node in nodes)


def run_on(lab: Lab, node: Node, *arguments: str, code: int = 0) -> str:
    command = [*node.host.enter, str(lab.muster), *arguments]
    done = subprocess.run(command, env=node.environment(), capture_output=True, text=True, timeout=COMMAND_BOUND)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def names(node: Node) -> list[str]:
    return sorted(member.name for member in node.etcd.members())


@pytest.mark.core
@in_a_hub
def test_three_form_from_a_static_list_and_every_command_knows_it(lab):
    """A site without EC2: the hosts and addresses in one variable are all that is needed."""
    nodes = [lab.add_node(launch=False) for _ in range(3)]
    listed = ",".join(f"db-{place}={node.address}" for place, node in enumerate(nodes, 1))
    # One of them by the former name: a fleet is updated node by node.
    for node, name in zip(nodes, ("MUSTER_ROSTER", "MUSTER_HOSTS", "MUSTER_HOSTS")):
        node.env[name] = f"static:{listed}"
    start(*nodes)
    wait_formed(lab, *nodes)
    assert said(nodes[0], "MUSTER_ROSTER is now MUSTER_HOSTS")
    assert names(nodes[0]) == ["db-1", "db-2", "db-3"]
    nodes[0].etcd.put("key", "value")
    assert nodes[2].etcd.get("key") == "value"
    node = nodes[1]
    assert f"3 instances with MUSTER_HOSTS=static:{listed}, 3 not terminated, 0 API calls" in run_on(lab, node, "discover")
    assert [shown["launched"] for shown in json.loads(run_on(lab, node, "discover", "--json"))] == [None] * 3
    assert "db-3" in (plan := run_on(lab, node, "plan")) and "run would now  resume" in plan
    members = json.loads(run_on(lab, node, "members", "--json"))
    assert sorted(m["instance"] for m in members["members"]) == ["db-1", "db-2", "db-3"] and not members["notes"]
    assert f"db-2 at {node.address}\n" in run_on(lab, node, "status")
    assert run_on(lab, node, "health", "--cluster").count("healthy") == 3
    assert f"http://{node.address}:2379" in run_on(lab, node, "etcdctl-env")
    assert f"static:{listed}" in run_on(lab, node, "env")


@pytest.mark.core
@in_a_hub
def test_a_host_is_replaced_when_the_file_says_that_it_is_terminated(lab):
    """The file is the operator's word: until it says that a host is gone, silence and a missing line are no proof."""
    nodes = form(lab)
    nodes[0].etcd.put("key", "value")
    dead, survivors = nodes[2], nodes[:2]
    dead.power_off()
    (new,) = hosts(lab, "db-4")
    write([entry(node) for node in [*nodes, new]], new)
    start(new)
    wait_said(lab, new, "hold: spare", "db-3 exists")
    write([entry(node) for node in [*survivors, new]], new)
    wait_said(lab, new, "hold: spare", "its instance is unknown")
    wait_looks(lab, new)
    assert names(nodes[0]) == ["db-1", "db-2", "db-3"]
    write([*(entry(node) for node in [*survivors, new]), entry(dead, state="terminated")], new)
    wait_formed(lab, *survivors, new)
    assert said(new, "remove member", "its instance db-3 is gone")
    assert names(new) == ["db-1", "db-2", "db-4"] and new.etcd.get("key") == "value"


@in_a_hub
def test_a_host_without_power_holds_up_its_successor_no_longer_than_one_that_is_up(lab):
    """Terminated by the list's word alone it is asked on, and each step of the join waited for that; the control refuses at once."""
    nodes = form(lab, MUSTER_PROBE_TIMEOUT="3s", MUSTER_REMOVE_AFTER="5s")
    gone = []

    def replace_the_last(name: str) -> float:
        gone.append(entry(nodes.pop(), state="terminated"))
        (new,) = hosts(lab, name, MUSTER_PROBE_TIMEOUT="3s", MUSTER_REMOVE_AFTER="5s")
        write([*map(entry, [*nodes, new]), *gone], new)
        nodes.append(new)
        began = time.monotonic()
        start(new)
        wait_said(lab, new, "is healthy and votes")
        took = time.monotonic() - began
        wait_formed(lab, *nodes)
        return took

    nodes[-1].power_off()
    control = replace_the_last("db-4")
    gone.clear()  # its line is taken out
    nodes[-1].power_off()
    nodes[-1].host.dark()
    dark = replace_the_last("db-5")
    print(f"from start to voter: {control:.1f} s beside a host that is up, {dark:.1f} s beside a dark one")
    assert dark < 1.5 * control, f"{dark:.1f} s, beside a host that is up {control:.1f} s"


@in_a_hub
def test_a_file_that_breaks_while_etcd_runs_changes_nothing(lab):
    """An editor's half-written file must neither stop an etcd nor have anybody removed."""
    nodes = form(lab, MUSTER_REMOVE_INTERVAL="200ms")
    pids = [etcd_pid(node) for node in nodes]
    nodes[2].power_off()
    watchers = nodes[:2]
    for text, why in ((TRUNCATED, "EOF"), ("[]", "is empty"), (None, "No such file"), ("", "EOF")):
        since = {node: mark(node) for node in watchers}
        for node in watchers:
            node.roster.unlink() if text is None else node.roster.write_text(text)
        words = ("reconcile: MUSTER_HOSTS=file:", why, "no member is removed")
        lab.wait(lambda: any(said(node, *words, since=since[node]) for node in watchers), BOUND, f"a word on {text!r}")
    assert [etcd_pid(node) for node in watchers] == pids[:2]
    assert stop(nodes[0]) == 0
    start(nodes[0])  # by its data, and what it was by the last list
    wait_said(lab, nodes[0], "continuing as db-1")
    lab.wait(lambda: all(node.etcd.health() for node in watchers), BOUND, "two healthy members")
    assert names(nodes[1]) == ["db-1", "db-2", "db-3"]
    write([*(entry(node) for node in watchers), entry(nodes[2], state="terminated")], *watchers)
    lab.wait(lambda: names(nodes[1]) == ["db-1", "db-2"], BOUND, "the removal that the file asks for")


@in_a_hub
def test_a_fresh_host_with_a_broken_file_says_so_and_goes_on_when_it_is_mended(lab):
    nodes = hosts(lab, "db-1", "db-2", "db-3")
    whole = [entry(node) for node in nodes]
    write(whole, *nodes[:2])
    broken = nodes[2]
    start(*nodes)
    for text, why in (
        (None, "No such file"),
        (TRUNCATED, "can't be read: EOF"),
        ("[]", "is empty"),
        (json.dumps(whole[:2]), "no listed address is this host's"),
        (json.dumps([*whole, {**whole[1], "host": "db-4"}]), "is listed twice"),
        (json.dumps([*whole[:2], {**whole[2], "state": "terminated"}]), "this host is db-3, which is terminated there"),
    ):
        if text is not None:
            broken.roster.write_text(text)
        wait_said(lab, broken, f"hold: MUSTER_HOSTS=file:{broken.roster}: ", why)
    wait_said(lab, nodes[0], "hold: db-3 did not answer", "MUSTER_BOOTSTRAP_WITHOUT_ABSENT=yes if none does")
    assert no_etcd_ran(*nodes)
    write(whole, broken)
    wait_formed(lab, *nodes)


@in_a_hub
def test_an_absent_host_is_waited_for_until_the_operator_vouches(lab):
    nodes = hosts(lab, "db-1", "db-2", "db-3")
    write([entry(node) for node in nodes], *nodes)
    early = nodes[:2]
    start(*early)
    wait_said(lab, early[0], "hold: db-3 did not answer; the age of db-1 is unknown")
    wait_looks(lab, *early)
    assert no_etcd_ran(*early)
    for node in early:
        assert stop(node) == 0
        node.env["MUSTER_BOOTSTRAP_WITHOUT_ABSENT"] = "yes"
    start(*early)
    lab.wait(lambda: all(node.etcd.health() for node in early), BOUND, "two healthy members")
    start(nodes[2])
    wait_formed(lab, *nodes)


@in_a_hub
def test_hosts_that_are_written_as_young_found_without_the_absent(lab):
    nodes = hosts(lab, "db-1", "db-2", "db-3")
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    write([entry(node, launched=now) for node in nodes], *nodes)
    start(nodes[1])
    wait_said(lab, nodes[1], "hold: ")
    start(nodes[0])
    lab.wait(lambda: all(node.etcd.health() for node in nodes[:2]), BOUND, "two healthy members")
    assert said(nodes[0], "hold: db-3 did not answer; waited")
    start(nodes[2])
    wait_formed(lab, *nodes)


@in_a_hub
def test_hosts_with_lists_that_differ_never_found(lab):
    """One file was edited and not copied: even an operator who vouches for the absent vouches for one list only."""
    nodes = hosts(lab, "db-1", "db-2", "db-3", MUSTER_BOOTSTRAP_WITHOUT_ABSENT="yes")
    whole = [entry(node) for node in nodes]
    write(whole, *nodes[:2])
    for theirs, told in (([whole[2], *whole[:2]], ""), ([*whole, {"host": "db-9", "address": "10.77.0.99"}], "db-9")):
        since = {node: mark(node) for node in nodes}
        write(theirs, nodes[2])
        if not nodes[2].runs():
            # First the odd one: who is seen to be absent is founded without, as the operator says.
            start(nodes[2])
            wait_said(lab, nodes[2], "hold: ")
            start(*nodes[:2])
        for node in nodes[:2]:
            wait_said(lab, node, "hold: db-3 has a different bootstrap configuration", told, "set the same MUSTER_HOSTS on all nodes", since=since[node])
        wait_looks(lab, *nodes)
        assert no_etcd_ran(*nodes)
    write(whole, nodes[2])
    wait_formed(lab, *nodes)


@in_a_hub
def test_a_fleet_that_is_called_terminated_and_lives_is_not_founded_beside(lab):
    """A slip of the pen about hosts that run must not become a second cluster; once they are off, it is the operator's word."""
    old = form(lab)
    new = hosts(lab, "db-4", "db-5", "db-6")
    write([*(entry(node, state="terminated") for node in old), *map(entry, new)], *new)
    start(*new)
    for node in new:
        wait_said(lab, node, " has all its 3 members")
    wait_looks(lab, *new)
    wait_formed(lab, *old)
    for node in old:
        node.power_off()
    wait_formed(lab, *new)


@in_a_hub
def test_a_name_that_two_hosts_bear_is_the_living_ones(lab):
    """The new db-3's file has it, the old db-3 still runs by another: no member that answers is replaced for its name."""
    nodes = form(lab)
    old = nodes[2]
    (new,) = hosts(lab, "db-3")
    write([entry(node) for node in [*nodes[:2], new]], *nodes[:2], new)
    start(new)
    wait_said(lab, new, "hold: member ", old.address, "has this host's name", "is kept: it answers")
    wait_looks(lab, new)
    wait_formed(lab, *nodes)
    assert no_etcd_ran(new)
    old.power_off()
    wait_formed(lab, *nodes[:2], new)
    since = mark(old)
    start(old)  # its data is moved aside, and its old list doesn't make it db-3 again
    wait_said(lab, old, "quarantine: ", since=since)
    wait_said(lab, old, "hold: member ", new.address, "has this host's name", since=since)
    wait_formed(lab, *nodes[:2], new)


@pytest.mark.core
@in_a_hub
def test_a_host_with_an_empty_disk_takes_its_own_place_anew(lab):
    nodes = form(lab)
    before = {member.name: member.id for member in nodes[0].etcd.members()}
    nodes[2].power_off()
    nodes[2].wipe()
    start(nodes[2])
    wait_said(lab, nodes[2], "remove member", before["db-3"], "its data is no longer on this disk")
    wait_formed(lab, *nodes)
    assert names(nodes[2]) == ["db-1", "db-2", "db-3"]


@in_a_hub
def test_a_spare_on_a_longer_list_waits_and_reads_the_list_again(lab):
    nodes = hosts(lab, "db-1", "db-2", "db-3", "db-4")
    whole = [entry(node) for node in nodes]
    write(whole, *nodes)
    start(*nodes)
    wait_formed(lab, *nodes[:3])
    wait_said(lab, nodes[3], " has all its 3 members")
    nodes[0].power_off()
    write([{**whole[0], "state": "terminated"}, *whole[1:]], nodes[3])
    wait_formed(lab, *nodes[1:])


def test_what_needs_ec2_is_refused_beside_a_list(binary, tmp_path):
    roster = "static:db-1=10.0.0.1,db-2=10.0.0.2"
    for settings, *parts in (
        ({"MUSTER_HOSTS": roster, "MUSTER_LEAVE": "on-terminate"}, "MUSTER_LEAVE=on-terminate: needs EC2", f"MUSTER_HOSTS={roster}"),
        ({"MUSTER_HOSTS": roster, "MUSTER_LIFECYCLE_HOOK": "up"}, "MUSTER_LIFECYCLE_HOOK=up: needs EC2", "unset one of the two"),
        ({"MUSTER_HOSTS": "static:db-1=10.0.0.1,db-1=10.0.0.2"}, "MUSTER_HOSTS=static:", "db-1 is listed twice"),
        ({"MUSTER_HOSTS": "file:roster.json"}, "MUSTER_HOSTS=file:roster.json: is not an absolute path"),
    ):
        environment = {"PATH": os.environ["PATH"], "ED_DATA": str(tmp_path / "data"), **settings}
        done = subprocess.run([str(binary), "run"], env=environment, capture_output=True, text=True, timeout=COMMAND_BOUND)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 78 and all(part in line for part in parts), line
    assert not (tmp_path / "data").exists()


if __name__ == "__main__":
    name, *where = sys.argv[1:]
    with a_lab(*where) as one_lab:
        globals()[name].inside(one_lab)
