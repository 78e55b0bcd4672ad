"""A disk is not a member: copies of a member's volume, machine images, volumes that moved for good, fleets that came back without theirs.

Snapshots of volumes and images of machines are how people back up, clone and repair. The data on them names a member; only the
instance that member belongs to may run it, or one that proves the owner gone.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest
from fleet import (
    BOUND,
    QUICK,
    command,
    etcd_pid,
    form,
    keep,
    launch,
    looks,
    mark,
    member_ids,
    rank,
    said,
    start,
    tree,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.ec2_faults import hidden, launched, restarted
from muster_tools.lab.etcd import NOT_YET
from muster_tools.lab.netns import Hub
from muster_tools.lab.node import Lab, Node
from test_roster import entry, hosts, in_a_hub
from test_roster import form as form_written
from test_roster import write as write_roster

ENOUGH = 5  # looks: what a node did not do in so many it had every chance to do

# What is written, and what must be there.


class Writing:
    """Writes through these nodes (`nodes`, which may change) in turn until the block ends. What was acknowledged must never be lost."""

    def __init__(self, *nodes: Node, prefix: str = "write"):
        self.acknowledged: list[str] = []
        self.nodes = list(nodes)
        self._prefix = prefix
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._ended.wait(0.02):
            key = f"{self._prefix}-{number:06}"
            try:
                self.nodes[number % len(self.nodes)].etcd.put(key, key)
                self.acknowledged.append(key)
            except NOT_YET:  # nobody said that it was written
                pass
            number += 1


def fill(lab: Lab, node: Node, prefix: str, count: int = 50) -> list[str]:
    """All acknowledged; each is tried again where an election is under way."""
    keys = [f"{prefix}-{number:06}" for number in range(count)]
    for key in keys:
        lab.wait(lambda: node.etcd.put(key, key) is None, BOUND, f"write of {key}")
    return keys


def all_keys(node: Node) -> set[str]:
    """By this node's own word."""
    everything = base64.b64encode(b"\0").decode()
    asked = {"key": everything, "range_end": everything, "keys_only": True, "serializable": True}
    found = node.etcd.post("/v3/kv/range", asked).get("kvs", [])
    return {base64.b64decode(pair["key"]).decode() for pair in found}


def wait_kept(lab: Lab, nodes: list[Node], keys: list[str]) -> None:
    """Each of them has all of these; a follower may be a moment behind."""
    for node in nodes:
        lab.wait(lambda: set(keys) <= all_keys(node), BOUND, f"every acknowledged write at {node.address}")


# What must not happen.


def wait_held(lab: Lab, copy: Node, owner: str, since: int = 0) -> str:
    """It holds, and names whose disk it has; etcd never runs meanwhile."""

    def holds() -> str | None:
        assert not copy.etcd_pids(), f"etcd runs on the copy: {copy.log_tail()}"
        return said(copy, "hold: ", owner, since=since)

    return lab.wait(holds, BOUND, f"hold of {copy.address} that names {owner}")


def stays_held(lab: Lab, copy: Node, more: int = ENOUGH) -> None:
    wanted = looks(copy) + more

    def has_looked() -> bool:
        assert not copy.etcd_pids(), f"etcd runs on the copy: {copy.log_tail()}"
        return looks(copy) >= wanted

    lab.wait(has_looked, BOUND, f"{more} further looks of {copy.address}")


def places(node: Node) -> dict[str, tuple[str, ...]]:
    """Peer URLs by member id."""
    return {member.id: member.peer_urls for member in node.etcd.members()}


def held_data(node: Node) -> dict[str, str]:
    return tree(node.data / "member", node.wal)


def untouched(node: Node) -> dict[str, str]:
    assert not list(node.data.glob("quarantine-*")), "moved aside"
    return held_data(node)


# A copy beside its original.


@pytest.mark.core
@pytest.mark.parametrize("kind", ["older", "equal", "without a ledger"])
def test_a_copy_of_a_living_members_disk_never_takes_its_place(lab, kind):
    """A snapshot of one member's volume on a new machine: the copy took the member's URL and name, then had it removed."""
    nodes = form(lab, 3, size=3)
    original = nodes[0]
    keys = fill(lab, original, "before")
    before, own = places(original), member_ids(original)[original.peer_url]
    disk = original.snapshot()
    if kind != "equal":
        keys += fill(lab, original, "after the snapshot")
    copy = lab.add_node()
    copy.restore(disk, ledger=kind != "without a ledger")
    found = held_data(copy)
    with Writing(original, prefix="meanwhile") as writing:
        start(copy)
        wait_held(lab, copy, original.instance.id)
        stays_held(lab, copy)
    assert original.instance.id in command(lab, copy, "status").stdout
    assert untouched(copy) == found
    for node in nodes:
        assert places(node) == before
    assert original.etcd.member_id() == own
    assert writing.acknowledged, "the original takes writes"
    wait_kept(lab, nodes, keys + writing.acknowledged)


@in_a_hub
def test_a_copy_of_a_written_hosts_disk_never_takes_its_place(lab):
    """Without EC2: the machine image of db-1 boots as db-4, which the list has, too."""
    nodes = form_written(lab)
    (copy,) = hosts(lab, "db-4")
    keys = fill(lab, nodes[0], "before")
    before = places(nodes[0])
    disk = nodes[0].snapshot()
    keys += fill(lab, nodes[0], "after the snapshot")
    write_roster([entry(node) for node in [*nodes, copy]], *nodes, copy)
    copy.restore(disk)
    start(copy)
    wait_held(lab, copy, "db-1")
    stays_held(lab, copy)
    assert places(nodes[1]) == before
    nodes[0].etcd.put("still", "written")
    wait_kept(lab, nodes, [*keys, "still"])


@pytest.mark.core
def test_a_copy_and_a_member_that_was_away_serve_nobody(lab):
    """Both lack what the other two acknowledged meanwhile; together they would be two of three, and serve without it."""
    nodes = form(lab, 3, size=3)
    original, other, away = nodes
    keys = fill(lab, original, "before")
    disk = original.snapshot()
    away.power_off()
    keys += fill(lab, original, "acknowledged by two")
    copy = lab.add_node()
    copy.restore(disk)
    start(copy)
    wait_held(lab, copy, original.instance.id)
    for node in (original, other):
        node.power_off()
    start(away)
    wait_said(lab, away, "etcd runs as process")
    wanted = looks(copy) + ENOUGH

    def nothing_is_served() -> bool:
        assert not copy.etcd_pids(), "etcd runs on the copy"
        with pytest.raises(NOT_YET):
            away.etcd.put("served", "without a quorum")
        return looks(copy) >= wanted

    lab.wait(nothing_is_served, BOUND, f"{ENOUGH} further looks of the copy")
    start(original, other)
    wait_formed(lab, *nodes)
    wait_kept(lab, nodes, keys)
    stays_held(lab, copy)


def test_of_two_disks_of_one_member_one_runs_at_a_time(lab):
    """The owner is stopped, not gone, when the copy boots, and comes back: whichever of both may run, the other one holds."""
    nodes = form(lab, 3, size=3)
    owner, *others = nodes
    keys = fill(lab, owner, "before")
    lab.stop_instances(owner)
    copy = lab.add_node()
    copy.restore(owner.snapshot())
    both = (owner, copy)

    def running() -> list[Node]:
        with_etcd = [node for node in both if node.etcd_pids()]
        assert len(with_etcd) < 2, "both run"
        return with_etcd

    with Writing(*others) as writing:
        start(copy)
        lab.wait(lambda: (running() or said(copy, "hold: ")) and looks(copy) >= 1, BOUND, "decision of the copy")
        lab.start_instances(owner)
        since = mark(owner)
        start(owner)
        lab.wait(lambda: (running() or True) and looks(owner, since) >= 1, BOUND, "look of the owner")

        def is_whole() -> bool:
            at_work = running()
            return len(at_work) == 1 and at_work[0].etcd.health() and len(places(others[0])) == 3

        lab.wait(is_whole, BOUND, "three members that serve")
        idle = next(node for node in both if not node.etcd_pids())
        wanted = looks(idle) + ENOUGH
        lab.wait(lambda: (running() or True) and looks(idle) >= wanted, BOUND, "further looks of the one that holds")
    wait_kept(lab, [*others, *running()], keys + writing.acknowledged)


@contextmanager
def a_cloud(binary: str, etcd: str):
    """EC2 and its instances, each in a network namespace of its own."""
    hub = Hub().enter()
    with Ec2() as cloud, Lab(etcd=etcd, muster=Path(binary), env=QUICK, shared_ec2=cloud, hub=hub) as lab:
        yield lab


def in_a_cloud(test):
    run = in_a_hub(test)
    test.needs_ec2 = True
    return run


@in_a_cloud
def test_a_copy_that_is_cut_off_with_a_part_makes_no_second_quorum(lab):
    """Two sides acknowledged writes at once, under one cluster id: the member on one, its copy on the other."""
    nodes = form(lab, 3, size=3)
    original, beside, apart = nodes
    keys = fill(lab, original, "before")
    before = places(original)
    disk = original.snapshot()
    copy = lab.add_node()
    copy.restore(disk)
    sides = (original.host, beside.host), (apart.host, copy.host)
    heal = [host.deaf_to(*there) for here, there in (sides, sides[::-1]) for host in here]
    with Writing(original, beside, prefix="this side") as writing, Writing(apart, copy, prefix="that side") as other_side:
        start(copy)
        wait_held(lab, copy, original.instance.id)
        written = len(writing.acknowledged)
        stays_held(lab, copy)
        # The leader may have been on the other side.
        lab.wait(lambda: len(writing.acknowledged) > written, BOUND, "writes on the members' side")
    assert not other_side.acknowledged
    for undo in heal:
        undo()
    wait_formed(lab, *nodes)
    assert places(apart) == before
    wait_kept(lab, nodes, keys + writing.acknowledged)
    stays_held(lab, copy)


# A disk that is an older copy of itself.


def seen_by(witness: Node, member: str) -> int:
    """How far the supervisor there has on record that member's log."""
    held = json.loads((witness.data / "muster" / "logs.json").read_text())
    return dict((id, end["index"]) for id, end in held["logs"]).get(int(member, 16), 0)


@pytest.mark.core
def test_a_disk_put_back_from_an_older_copy_of_itself_is_told_by_who_saw_it_further_on(lab):
    """db-3 is away; db-1 and db-2 acknowledge; db-1's disk is put back from before. Two of three, db-1 and db-3, would serve without
    it. db-2, whose etcd can't run now, says how far db-1 had been."""
    nodes = launch(lab, 3, size=3)
    restored, witness, away = nodes
    witness.env["BOOTSTRAP_WAIT"] = "30s"  # the longest pause in which it answers
    start(*nodes)
    wait_formed(lab, *nodes)
    member = member_ids(witness)[restored.peer_url]
    keys = fill(lab, restored, "before")
    disk = restored.snapshot()
    away.power_off()
    keys += fill(lab, restored, "acknowledged by two")
    reached = int(restored.etcd.post("/v3/maintenance/status", {})["raftIndex"])
    lab.wait(lambda: seen_by(witness, member) >= reached, BOUND, "record of how far the others' logs go")
    restored.power_off()
    restored.restore(disk)
    with unable_to_run(lab, witness):
        started = mark(restored)
        start(away, restored)
        line = wait_said(lab, restored, "hold: ", "an older state", member, since=started)
        assert witness.instance.id in line and f"MUSTER_ADOPT={member}" in line
        wanted = looks(restored) + ENOUGH

        def nothing_is_served() -> bool:
            assert not restored.etcd_pids(), "etcd runs on the older copy"
            with pytest.raises(NOT_YET):
                away.etcd.put("served", "without a quorum")
            return looks(restored) >= wanted

        lab.wait(nothing_is_served, BOUND, f"{ENOUGH} further looks of the older copy")
        untouched(restored)
        found = tree(restored.data / "member", restored.wal / "wal")
    wait_formed(lab, *nodes)
    wait_kept(lab, nodes, keys)
    aside = tree(*restored.data.glob("quarantine-*"), *restored.wal.glob("quarantine-*"))
    assert found and sorted(found.values()) == sorted(aside.values()), "all of it is there"
    assert member_ids(witness)[restored.peer_url] != member, "it joined anew"


@contextmanager
def unable_to_run(lab: Lab, node: Node):
    """Its etcd ends, and can't be started again before this does: somebody is writing it. Its supervisor answers meanwhile."""
    program = node.home / "bin" / "etcd"
    program.unlink()
    shutil.copy(lab.etcd_binary, program)
    with program.open("r+b"):
        since, seen = mark(node), looks(node)
        os.kill(etcd_pid(node), signal.SIGKILL)
        wait_said(lab, node, "hold: ", "Text file busy", since=since)
        # The pauses in which it answers have grown to seconds; between two it answers nobody for a moment.
        lab.wait(lambda: looks(node) >= seen + 4, BOUND, f"further looks of {node.address}")
        yield


# A disk that moved for good.


@pytest.mark.core
@pytest.mark.parametrize("where", ["another address", "the same address", "the old one forgotten by EC2"])
def test_the_volume_of_a_terminated_member_on_a_new_instance_is_that_member(lab, where):
    """What EBS volumes are for: the owner is gone by EC2's word, and its member goes on, with its log, by itself."""
    nodes = form(lab, 3, size=3)
    keys = fill(lab, nodes[0], "before")
    *rest, old = nodes
    member = member_ids(rest[0])[old.peer_url]
    old.power_off()
    disk = old.snapshot()
    lab.terminate(old)
    keys += fill(lab, rest[0], "meanwhile")
    new = lab.add_node(address=old.address if where == "the same address" else None)
    if where == "the old one forgotten by EC2":
        new.front.add(hidden(old.instance.id))
    new.restore(disk)
    start(new)
    wait_formed(lab, *rest, new)
    assert member_ids(rest[0])[new.peer_url] == member
    assert not list(new.data.glob("quarantine-*"))
    wait_kept(lab, [*rest, new], keys)
    new.power_off()  # and from now on it is the owner
    start(new)
    wait_formed(lab, *rest, new)


@pytest.mark.core
def test_all_volumes_on_new_instances_at_the_same_addresses_are_the_old_cluster(lab):
    """The whole fleet was replaced, its volumes kept (Terraform's existing_volumes): no quorum answers, and all owners are gone."""
    nodes = form(lab, 3, size=3)
    keep(nodes, "key", "value")
    cluster, before = nodes[0].etcd.cluster_id(), places(nodes[0])
    disks = []
    for node in nodes:
        node.power_off()
    for node in nodes:
        disks.append(node.snapshot())
        lab.terminate(node)
    heirs = [lab.add_node(address=node.address) for node in nodes]
    for heir, disk in zip(heirs, disks):
        heir.restore(disk)
    start(*heirs)
    assert wait_formed(lab, *heirs) == cluster
    assert places(heirs[0]) == before
    assert heirs[1].etcd.get("key") == "value"


# A fleet without its disks.


@pytest.mark.core
def test_an_old_fleet_that_was_stopped_and_started_is_not_a_young_one(lab):
    """EC2's launchTime starts anew with each start; two volumes aren't mounted and one host is off: a second cluster was founded
    beside the data of the first."""
    nodes = form(lab, 3, size=3)
    keep(nodes, "key", "value")
    cluster = nodes[0].etcd.cluster_id()
    *unmounted, off = nodes
    disks = [node.snapshot() for node in unmounted]
    lab.stop_instances(*nodes)
    lab.start_instances(*nodes)
    lab.fault_ec2(launched(timedelta(hours=2), *(node.instance.id for node in nodes)))
    lab.fault_ec2(restarted(timedelta(0), *(node.instance.id for node in nodes)))
    since = {}
    for node in unmounted:
        node.wipe()
        since[node.address] = mark(node)
    start(*unmounted)

    def has_held() -> bool:
        for node in unmounted:
            assert not node.etcd_pids(), f"a second cluster: {node.log_tail()}"
        return any(said(node, "hold: ", "MUSTER_BOOTSTRAP_WINDOW", since=since[node.address]) for node in unmounted)

    lab.wait(has_held, BOUND, "hold for the fleet's age, once the grace time is over")
    for node in unmounted:
        stays_held(lab, node)
    for node in unmounted:
        node.power_off()
    for node, disk in zip(unmounted, disks):
        node.restore(disk)
    start(*nodes)
    assert wait_formed(lab, *nodes) == cluster
    assert off.etcd.get("key") == "value"


# A machine image.


def image_of_a_fresh_node(lab: Lab) -> Path:
    """The disk of an instance that the supervisor ran on before the image was made, and no etcd."""
    node = lab.add_node()
    start(node)
    wait_looks(lab, node, more=1)
    node.power_off()
    assert (node.data / "muster").is_dir() and not (node.data / "member").exists()
    image = node.snapshot()
    lab.terminate(node)
    return image


@pytest.mark.core
def test_two_foundings_from_one_image_are_two_clusters(lab):
    """The image has a ledger, so all machines made from it began with the same "random" number: at the same addresses the second
    cluster had the first one's id, and the first one's disks would have been taken for its members'."""
    lab.env |= {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_BOOTSTRAP_GRACE": "60s"}  # none is founded without somebody
    image = image_of_a_fresh_node(lab)
    ids, members = [], []
    addresses = None
    for _ in range(2):
        nodes = [lab.add_node(address=address) for address in addresses or [None] * 3]
        addresses = [node.address for node in nodes]
        rank(lab, *nodes)
        for node in nodes:
            node.restore(image)
        start(*nodes)
        ids.append(wait_formed(lab, *nodes))
        members += member_ids(nodes[0]).values()
        for node in nodes:
            lab.terminate(node)
    assert len(set(ids)) == 2
    assert len(set(members)) == 6


@in_a_cloud
def test_a_machine_from_a_members_image_never_runs_as_that_member(lab):
    """The metadata service is mute, and the image says who it was made of: that is somebody else, who lives."""
    nodes = form(lab, 3, size=3)
    original = nodes[0]
    before = places(original)
    copy = lab.add_node()
    copy.restore(original.snapshot())
    copy.imds.fault = "silent"
    start(copy)

    def holds() -> str | None:
        assert not said(copy, f"this is {original.instance.id}"), "it runs as another instance"
        assert not copy.etcd_pids(), "etcd runs on the copy"
        return said(copy, "hold: ")

    lab.wait(holds, BOUND, "hold without an identity")
    copy.imds.fault = None
    wait_held(lab, copy, original.instance.id)
    stays_held(lab, copy)
    assert said(copy, f"this is {copy.instance.id}")
    assert places(original) == before
    wait_formed(lab, *nodes)


@in_a_cloud
def test_a_machine_from_a_fresh_image_never_runs_as_the_instance_it_was_made_of(lab):
    """The same before any etcd ran: it would vote, and be listed, as another."""
    image = image_of_a_fresh_node(lab)
    made_of = lab.nodes[0].instance.id
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")
    for node in nodes:
        node.restore(image)
        node.imds.fault = "silent"
    start(*nodes)
    for node in nodes:
        lab.wait(lambda: said(node, "hold: ") or said(node, "this is "), BOUND, "a first word")
        assert not said(node, f"this is {made_of}")
    for node in nodes:
        node.imds.fault = None
    wait_formed(lab, *nodes)
    assert sorted(member.name for member in nodes[0].etcd.members()) == sorted(node.instance.id for node in nodes)


if __name__ == "__main__":
    from test_roster import a_lab

    name, *given = sys.argv[1:]
    test = globals()[name].inside
    with (a_cloud if getattr(test, "needs_ec2", False) else a_lab)(*given) as one_lab:
        test(one_lab)
