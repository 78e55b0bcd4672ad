"""A cluster that runs: members die and are replaced; nothing written is lost, nothing alive is removed."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    PATIENT,
    alive,
    etcd_pid,
    field,
    form,
    goes_on_answering,
    keep,
    launch,
    leader_of,
    lines,
    mark,
    member_ids,
    remove_member,
    replace_etcd,
    restore_etcd,
    said,
    start,
    stop,
    tree,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.ec2_faults import hidden, refused
from muster_tools.lab.node import static_list_arguments

# Replacement.


@pytest.mark.release
@pytest.mark.core
def test_a_terminated_instance_is_replaced_and_no_write_is_lost(lab):
    """The everyday failure: a new instance takes a dead one's place without a hand being lifted."""
    nodes = form(lab, 3, size=3)
    nodes[0].etcd.put("key", "value")
    dead = nodes.pop(0)
    dead_id = member_ids(nodes[0])[dead.peer_url]
    lab.terminate(dead)
    replacement = lab.add_node()
    start(replacement)
    wait_formed(lab, *nodes, replacement)
    assert said(replacement, f"remove member {dead_id}", dead.instance.id)
    assert replacement.etcd.get("key") == "value"


@pytest.mark.core
def test_a_replacement_at_the_address_of_the_dead_one_joins(lab):
    """Subnets are small and addresses are reused: the new instance is a new member, not the old one's heir."""
    nodes = form(lab, 3, size=3)
    dead = nodes.pop()
    old = member_ids(nodes[0])[dead.peer_url]
    lab.terminate(dead)
    replacement = lab.add_node(address=dead.address)
    start(replacement)
    wait_formed(lab, *nodes, replacement)
    assert member_ids(nodes[0])[replacement.peer_url] != old


def test_a_spare_waits_and_takes_the_slot_that_opens(lab):
    """An Auto Scaling group that is one too large costs nothing, and heals faster."""
    nodes = form(lab, 3, size=3)
    spare = lab.add_node()
    start(spare)
    wait_said(lab, spare, "hold: spare", "all its 3 members")
    wait_looks(lab, spare)
    assert not spare.etcd_pids() and len(member_ids(nodes[0])) == 3
    lab.terminate(nodes.pop())
    wait_formed(lab, *nodes, spare)


@pytest.mark.release
@pytest.mark.core
def test_a_lost_disk_makes_a_new_member_of_the_same_instance(lab):
    """The old id may have voted: it is removed, and the instance rejoins under a new one."""
    nodes = form(lab, 3, size=3)
    nodes[0].etcd.put("key", "value")
    wiped = nodes[2]
    old = member_ids(nodes[0])[wiped.peer_url]
    wiped.power_off()
    wiped.wipe()
    start(wiped)
    lab.wait(lambda: member_ids(nodes[0]).get(wiped.peer_url, old) != old, BOUND, "a new id")
    wait_formed(lab, *nodes)
    assert said(wiped, f"remove member {old}", "its data is no longer on this disk")
    assert wiped.etcd.get("key") == "value"


# Restarts.


@pytest.mark.release
@pytest.mark.no_learners
@pytest.mark.core
def test_a_restart_keeps_the_member(lab):
    """A deployment or a reboot is no replacement."""
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    assert stop(nodes[1]) == 0
    start(nodes[1])
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0]) == before


@pytest.mark.release
@pytest.mark.no_learners
@pytest.mark.core
@pytest.mark.parametrize("imds", ["no-listener", "silent"])
def test_a_whole_cluster_comes_back_from_a_power_loss_without_ec2_and_metadata(lab, imds):
    """When a region burns, AWS's API burns with it: data and known addresses must be enough."""
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    keep(nodes, "key", "value")
    for node in nodes:
        node.power_off()
        node.front.stop()
        node.imds.fault = imds
    start(*nodes)
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0]) == before
    assert nodes[2].etcd.get("key") == "value"


@pytest.mark.core
def test_a_power_loss_between_the_record_of_a_first_start_and_its_wal_is_got_over(lab):
    """On record as started, and not one vote was cast: to hold as if a disk were lost would hold the fleet for ever."""
    empty, half = nodes = launch(lab, 2, size=2)
    replace_etcd(empty, "exec sleep 1000")
    backend = half.data / "member/snap/db"
    replace_etcd(half, f"mkdir -p {backend.parent}; : > {backend}; exec sleep 1000")
    start(*nodes)
    for node in nodes:
        wait_said(lab, node, "etcd runs as process")
    lab.wait(backend.exists, BOUND, "half a start")
    for node in nodes:
        node.power_off()
        restore_etcd(lab, node)
    start(*nodes)
    wait_formed(lab, *nodes)
    for node in nodes:
        assert said(node, "it counts as never started")


def test_a_stop_that_was_asked_for_moves_leadership_and_exits_0(lab):
    """A planned stop of the leader must not cost the clients an election, nor look like a failure to the unit."""
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    others = [node for node in nodes if node is not leader]
    pid = etcd_pid(leader)
    assert stop(leader) == 0
    assert not alive(pid) and not leader.process.session()
    heir = field(said(leader, "leadership moved"), r"leadership moved to member (\w+)")
    assert heir in [member_ids(others[0])[node.peer_url] for node in others]
    assert lab.wait(lambda: any(node.etcd.is_leader() for node in others), BOUND, "a leader")


def test_a_leader_that_stops_hands_over_to_the_living(lab):
    """To the dead it would hand over for a whole election timeout, in which no write is taken."""
    nodes = form(lab, 3, size=3)
    leader = leader_of(lab, *nodes)
    urls = [member.peer_urls[0] for member in leader.etcd.members()]  # in the order in which they are asked
    dead, living = sorted((node for node in nodes if node is not leader), key=lambda node: urls.index(node.peer_url))
    heir = living.etcd.member_id()
    dead.power_off()
    assert stop(leader) == 0
    assert said(leader, f"leadership moved to member {heir}"), lines(leader)[-5:]


def test_sigint_is_a_stop_too(lab):
    """Ctrl-C in a terminal ends it as systemd does."""
    (node,) = form(lab, 1, size=1)
    pid = etcd_pid(node)
    node.kill(signal.SIGINT)
    assert node.wait_exit(BOUND) == 0
    assert not alive(pid)


def test_a_stop_while_it_holds_exits_0_at_once(lab):
    """A node that waits for others is stopped as easily as one that serves."""
    (node,) = launch(lab, 1, size=3)
    start(node)
    wait_said(lab, node, "hold: ")
    assert stop(node) == 0


def test_an_etcd_that_does_not_stop_is_killed_and_the_exit_code_says_so(lab):
    """A hung disk must not hold up a shutdown for ever; 137 tells the unit that it was no clean stop."""
    (node,) = form(lab, 1, size=1, MUSTER_STOP_TIMEOUT="1s")
    os.kill(etcd_pid(node), signal.SIGSTOP)
    assert stop(node) == 137
    assert not node.process.session()


def test_etcd_dies_with_its_supervisor(lab):
    """No etcd runs unsupervised: the next supervisor would find the port taken and the data in use."""
    nodes = form(lab, 3, size=3)
    pid = etcd_pid(nodes[0])
    nodes[0].kill(signal.SIGKILL)
    lab.wait(lambda: not alive(pid), BOUND, "the end of etcd")
    start(nodes[0])
    wait_formed(lab, *nodes)


def test_an_etcd_that_dies_is_started_again_with_growing_pauses(lab):
    """A crash heals by itself; a crash loop doesn't burn the machine."""
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    for life in (1, 2):
        first = etcd_pid(nodes[0])
        os.kill(first, signal.SIGKILL)
        lab.wait(lambda: nodes[0].etcd_pids() not in ([], [first]), BOUND, f"life {life + 1}")
        wait_formed(lab, *nodes)
    pauses = [int(ms) for ms in re.findall(r"ended by signal 9 .* deciding again in (\d+) ms", nodes[0].log_text())]
    assert len(pauses) == 2 and pauses[0] <= 1000 <= pauses[1]
    assert member_ids(nodes[0]) == before
    assert nodes[0].process.exit_code() is None


# Removed members, partial and foreign data.


@pytest.mark.release
def test_a_member_removed_while_down_keeps_its_files_and_rejoins(lab):
    """Somebody removed it by hand: its data is moved aside, every byte of it, and it joins as new."""
    nodes = form(lab, 3, size=3, **PATIENT)  # its first look must see the quorum
    removed = nodes[2]
    old = member_ids(nodes[0])[removed.peer_url]
    assert stop(removed) == 0
    remove_member(lab, nodes[0], old)
    data, wal = tree(removed.data / "member", below="member"), tree(removed.wal, below="wal/wal")
    assert data and wal
    start(removed)
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0])[removed.peer_url] != old
    assert said(removed, "quarantine: ", old)
    (aside,) = removed.data.glob("quarantine-*")
    (wal_aside,) = removed.wal.glob("quarantine-*")
    assert tree(aside, below="member") == data
    assert sorted(tree(wal_aside).values()) == sorted(wal.values())
    assert aside.name == wal_aside.name and aside.name in said(removed, "moved the data to")


@pytest.mark.release
def test_a_member_removed_while_it_runs_rejoins(lab):
    """etcd exits 0 for good when it is removed: the supervisor neither gives up nor loops over the dead id."""
    nodes = form(lab, 3, size=3)
    old = member_ids(nodes[0])[nodes[2].peer_url]
    remove_member(lab, nodes[0], old)
    lab.wait(lambda: member_ids(nodes[0]).get(nodes[2].peer_url, old) != old, BOUND, "a new id")
    wait_formed(lab, *nodes)
    assert list(nodes[2].data.glob("quarantine-*"))


def test_half_of_the_data_is_never_taken_for_a_fresh_disk(lab):
    """A WAL volume that was not mounted: starting fresh over the other half would destroy it."""
    nodes = form(lab, 3, size=3)
    keep(nodes, "key", "value")
    broken = nodes[2]
    for node in nodes:
        node.power_off()
    for file in (broken.wal / "wal").iterdir():
        file.unlink()
    left = tree(broken.data / "member")
    since = mark(broken)
    start(broken)
    reason = wait_said(lab, broken, "hold: ", "has no WAL", since=since)
    assert str(broken.data) in reason and str(broken.wal) in reason
    wait_looks(lab, broken)
    assert not broken.etcd_pids() and tree(broken.data / "member") == left
    # Its cluster lives again, and can give it all: then it may be moved aside.
    start(*nodes[:2])
    wait_formed(lab, *nodes)
    (aside,) = broken.data.glob("quarantine-*")
    assert set(left.values()) <= set(tree(aside).values())
    assert broken.etcd.get("key") == "value"


def test_data_of_another_cluster_halts_and_is_not_touched(lab):
    """A disk was attached to the wrong instance: only the operator knows which cluster is meant."""
    stray, other = launch(lab, 2, size=1, **PATIENT)
    for node, hides in ((stray, other), (other, stray)):
        node.front.add(hidden(hides.instance.id))
    start(stray, other)
    ours, living = wait_formed(lab, stray), wait_formed(lab, other)
    assert stop(stray) == 0
    lab.heal_ec2()
    held, pid = tree(stray.data / "member", stray.wal), etcd_pid(other)
    start(stray)
    reason = wait_said(lab, stray, "halt: ")
    assert ours in reason and living in reason
    assert etcd_pid(other) == pid and other.etcd.health()
    other.power_off()
    goes_on_answering(lab, stray)
    assert not stray.etcd_pids() and tree(stray.data / "member", stray.wal) == held, "out of sight isn't gone"
    assert stray.etcd.request("GET", "/members", stray.etcd.peer_port)[0] in (404, 503)
    assert stop(stray) == 0


def test_two_living_clusters_halt_a_fresh_node_and_go_on(lab):
    """Joining either could be wrong: both are named, both keep serving."""
    one, other, fresh = launch(lab, 3, size=1)
    for node in (one, other):
        node.start_plain_etcd(static_list_arguments(node, [node], token=node.address))
    ids = {lab.wait(node.etcd.cluster_id, BOUND, "a cluster") for node in (one, other)}
    assert len(ids) == 2
    pids = [node.process.pid for node in (one, other)]
    start(fresh)
    reason = wait_said(lab, fresh, "halt: ")
    assert all(cluster in reason for cluster in ids)
    assert all(alive(pid) for pid in pids) and one.etcd.health() and other.etcd.health()
    other.power_off()
    goes_on_answering(lab, fresh)
    assert not fresh.etcd_pids() and len(one.etcd.members()) == 1, "one of two clusters may only be out of sight"
    assert fresh.etcd.request("GET", "/members", fresh.etcd.peer_port)[0] in (404, 503)


def test_data_that_never_elected_gives_way_to_the_cluster_that_did(lab):
    """A founding that got stuck and one that was made by hand: what never elected a leader holds nothing to lose."""
    stuck, founded, absent = launch(lab, 3, size=3)
    for node in (founded, absent):
        replace_etcd(node, "exec sleep 1000")
    start(stuck, founded, absent)
    lab.wait(lambda: stuck.etcd.peer_version()["etcdcluster"] == "not_decided", BOUND, "an etcd that can't elect")
    for node in lab.nodes:
        node.power_off()
    restore_etcd(lab, founded)
    founded.start_plain_etcd(static_list_arguments(founded, [founded]))
    living = lab.wait(founded.etcd.cluster_id, BOUND, "a living cluster")
    start(stuck)
    wait_formed(lab, stuck, founded)
    assert stuck.etcd.cluster_id() == living
    assert "never elected a leader" in said(stuck, "quarantine: ")
    assert list(stuck.data.glob("quarantine-*"))


def test_a_founding_that_lost_its_quorum_waits_for_the_late_and_tells_them_the_token(lab):
    """Chosen by two, and one crashes before it starts: the third, which comes late, must still get into the cluster."""
    first, crashed, late = launch(lab, 3, size=3)
    replace_etcd(crashed, "exec sleep 1000")
    start(first, crashed)
    lab.wait(lambda: first.etcd.peer_version()["etcdcluster"] == "not_decided", BOUND, "an etcd that can't elect")
    crashed.power_off()
    start(late)
    lab.wait(lambda: first.etcd.health() and late.etcd.health(), BOUND, "a quorum of two")
    restore_etcd(lab, crashed)
    start(crashed)
    wait_formed(lab, first, crashed, late)


# Nothing alive is removed.


def test_a_member_that_hangs_is_never_removed(lab):
    """A long pause, a live migration, a partition: silence is no proof of death."""
    nodes = form(lab, 3, size=3, MUSTER_PROBE_TIMEOUT="300ms")
    before = member_ids(nodes[0])
    hung = nodes[2]
    os.kill(etcd_pid(hung), signal.SIGSTOP)
    spare = lab.add_node()
    start(spare)
    reason = wait_said(lab, spare, "hold: spare", before[hung.peer_url], f"{hung.instance.id} exists")
    assert "kept" in reason
    wait_looks(lab, spare, more=4)
    assert member_ids(nodes[0]) == before
    os.kill(etcd_pid(hung), signal.SIGCONT)
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0]) == before and not spare.etcd_pids()


def test_a_terminated_instance_that_still_answers_is_not_removed(lab):
    """EC2 is ahead of the machine, or wrong: while it serves, it is a member; when it falls silent, it goes."""
    nodes = form(lab, 3, size=3, **PATIENT)
    before = member_ids(nodes[0])
    doomed = nodes[2]
    lab.ec2.terminate(doomed.instance.id)
    spare = lab.add_node()
    start(spare)
    wait_said(lab, spare, "hold: spare")
    wait_looks(lab, spare, more=4)
    assert member_ids(nodes[0]) == before and doomed.etcd.health()
    reason = said(spare, "hold: spare")
    assert "if it is dead" not in reason, reason  # it isn't: it answers
    doomed.power_off()
    wait_formed(lab, *nodes[:2], spare)


def test_a_stopped_instance_is_not_removed(lab):
    """It may come back with its data."""
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    lab.stop_instances(nodes[2])
    spare = lab.add_node()
    start(spare)
    wait_said(lab, spare, "hold: spare", f"{nodes[2].instance.id} exists")
    wait_looks(lab, spare, more=4)
    assert member_ids(nodes[0]) == before
    lab.start_instances(nodes[2])
    start(nodes[2])
    wait_formed(lab, *nodes)
    assert member_ids(nodes[0]) == before


def test_nothing_is_removed_while_ec2_cannot_be_asked(lab):
    """Unknown is never gone."""
    nodes = form(lab, 3, size=3)
    before = member_ids(nodes[0])
    lab.terminate(nodes[2])
    fresh = lab.add_node()
    nodes_left = nodes[:2]
    # It is listed no more, as after an hour, and asking by id fails.
    fresh.front.add(hidden(nodes[2].instance.id))
    overloaded = refused(503, "Unavailable", "The server is overloaded.")
    fresh.front.add(lambda call, proceed: (overloaded if "InstanceId.1" in call.parameters else passed)(call, proceed))
    start(fresh)
    wait_said(lab, fresh, "hold: spare", f"the state of {nodes[2].instance.id} is unknown")
    wait_looks(lab, fresh, more=2)
    assert member_ids(nodes_left[0]) == before
    fresh.front.clear()
    wait_formed(lab, *nodes_left, fresh)


def passed(call, proceed):
    return proceed()


# The supervisor itself.


def test_orphans_are_reaped(lab, tmp_path):
    """As PID 1 it inherits what others leave behind: unreaped, a year of health checks fills the process table."""
    # A subreaper inherits orphans as PID 1 does.
    wrapper = tmp_path / "subreaper"
    prctl = f"import ctypes, os, sys; assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0; os.execv({str(lab.muster)!r}"
    wrapper.write_text(f"#!{sys.executable}\n{prctl}, [{str(lab.muster)!r}, *sys.argv[1:]])\n")
    wrapper.chmod(0o755)
    lab.muster = wrapper
    (node,) = launch(lab, 1, size=1)
    marker = tmp_path / "orphan"
    # The shell between is gone at once; its child is nobody's.
    body = f"echo $$ > {marker}; while [ ! -e {marker}.go ]; do sleep 0.05; done"
    replace_etcd(node, f"(sh -c '{body}' &)\nexec $ETCD")
    start(node)
    wait_formed(lab, node)
    orphan = int(lab.wait(lambda: marker.exists() and marker.read_text(), BOUND, "the orphan's word"))
    assert parent(orphan) == node.process.pid
    Path(f"{marker}.go").touch()
    lab.wait(lambda: not Path(f"/proc/{orphan}").exists(), BOUND, "no trace of the orphan")
    assert node.etcd.health() and node.process.exit_code() is None


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_at_rest_it_asks_neither_ec2_nor_the_metadata_service(lab):
    """A thousand nodes at rest must not eat the account's API quota."""
    nodes = form(lab, 3, size=3)
    for node in nodes:
        wait_said(lab, node, "is healthy and votes")
    calls = [(dict(node.front.calls), dict(node.imds.requests)) for node in nodes]
    # Its own slow look at etcd is what goes on at rest: one of those has passed when this counter moved.
    checks = {node.address: health_checks(node) for node in nodes}
    lab.wait(lambda: all(health_checks(n) > checks[n.address] for n in nodes), BOUND, "a look at rest")
    assert [(dict(node.front.calls), dict(node.imds.requests)) for node in nodes] == calls


def health_checks(node) -> int:
    _, metrics = node.etcd.request("GET", "/metrics", node.etcd.client_port)
    found = re.search(r"^etcd_server_health_success (\S+)$", metrics.decode(), re.M)
    return int(float(found[1])) if found else 0
