"""etcd ends, hangs or complains: what is the data's fault is told from what isn't, and nothing is moved that nobody else has."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    IS_ROOT,
    command,
    etcd_pid,
    form,
    launch,
    mark,
    member_ids,
    said,
    small_disk,
    start,
    stop,
    tree,
    wait_formed,
    wait_said,
)
from muster_tools.lab.etcd import NOT_YET, EtcdError
from muster_tools.lab.process import Process



# Damage, as disks do it.


def newest_wal(node) -> Path:
    return max((node.wal / "wal").glob("*.wal"))


def backend(node) -> Path:
    return node.data / "member" / "snap" / "db"


def records(wal: Path) -> list[tuple[int, int]]:
    """Where each record of a WAL file begins, and its length: a 64-bit length, whose upper byte is padding, and a protobuf."""
    data, at, found = wal.read_bytes(), 0, []
    while at + 8 <= len(data) and (field := int.from_bytes(data[at : at + 8], "little")):
        length, padding = field & ~(0xFF << 56), (field >> 56) & 7 if field >> 63 else 0
        found.append((at, length))
        at += 8 + length + padding
    return found


def flip_a_bit(node) -> None:
    """In the middle of the WAL, in what a record holds."""
    wal = newest_wal(node)
    all_records = records(wal)
    at, length = all_records[len(all_records) // 2]
    with wal.open("r+b") as file:
        file.seek(at + 8 + length - 1)
        (byte,) = file.read(1)
        file.seek(at + 8 + length - 1)
        file.write(bytes([byte ^ 1]))


def truncate_wal(node) -> None:
    """Its second half is zeros: what a file system makes of blocks that were never written."""
    wal = newest_wal(node)
    size, all_records = wal.stat().st_size, records(wal)
    os.truncate(wal, all_records[len(all_records) // 2][0])
    os.truncate(wal, size)


def empty_wal(node) -> None:
    """A file of no bytes, as after a crash of some file systems: even whose it was is lost."""
    os.truncate(newest_wal(node), 0)


def cut_backend(node) -> None:
    """After its first pages: how much of the file is in use differs by release."""
    os.truncate(backend(node), 3 * 4096)


def fill(lab, node, count: int = 40) -> None:
    for key in range(count):
        lab.wait(lambda: node.etcd.put(f"key-{key}", "value" * 40) is None, BOUND, f"write of key-{key}")


# And etcd's word for it; for the last 3.7 has its own.
DAMAGES = [
    (flip_a_bit, ("walpb: crc mismatch",)),
    (cut_backend, ("unexpected fault address",)),
    (empty_wal, ("cannot use none as id", "nil pointer dereference")),
]


@pytest.mark.release
def test_damaged_data_is_moved_aside_and_had_again_from_a_quorum(lab):
    """A bad block is no reason to get up at night: after five lives that end over it the node joins anew, and keeps the evidence."""
    nodes = form(lab, 7, size=7)
    fill(lab, nodes[0])
    broken, whole = nodes[:3], nodes[3:]
    old = member_ids(whole[0])
    for node in broken:
        node.power_off()
    for node, (damage, _) in zip(broken, DAMAGES):
        damage(node)
    # etcd itself goes on writing to a backend it can open.
    evidence = [newest_wal(node).read_bytes() for node in broken]
    start(*broken)
    for node, (_, words) in zip(broken, DAMAGES):
        line = wait_said(lab, node, "quarantine: the data of member", old[node.peer_url])
        assert any(word in line for word in words), line
        assert all(f"etcd reported damaged data ({life} of 5" in node.log_text() for life in range(1, 5))
    wait_formed(lab, *nodes, bound=2 * BOUND)
    for node, wal in zip(broken, evidence):
        assert member_ids(whole[0])[node.peer_url] != old[node.peer_url]
        assert node.etcd.get("key-39", serializable=True) == "value" * 40
        (aside,), (wal_aside,) = node.data.glob("quarantine-*"), node.wal.glob("quarantine-*")
        assert (aside / "member" / "snap" / "db").is_file()
        assert max((wal_aside / "wal").glob("*.wal")).read_bytes() == wal
    assert all(member_ids(whole[0])[node.peer_url] == old[node.peer_url] for node in whole), "nobody else was touched"


def test_a_wal_that_lost_its_end_is_caught_at_the_start(lab):
    """It starts as if nothing was, without writes it has acknowledged: the leader, which knows of them, gives it away."""
    nodes = form(lab, 3, size=3)
    fill(lab, nodes[0])
    loser = next(node for node in nodes if not node.etcd.is_leader())
    loser.power_off()
    truncate_wal(loser)
    start(loser)
    wait_said(lab, loser, "etcd reported damaged data (1 of 5")
    assert "is out of range [lastIndex(" in loser.log_text()
    assert not list(loser.data.glob("quarantine-*"))


@pytest.mark.release
@pytest.mark.core
def test_a_sole_members_damaged_data_is_kept_where_it_is(lab):
    """It is all there is: whoever moves it away for a clean start has deleted a database."""
    (node,) = form(lab, 1, size=1)
    fill(lab, node)
    node.power_off()
    whole = newest_wal(node).read_bytes()
    flip_a_bit(node)
    wal, files = tree(node.wal), tree(node.data / "member").keys()
    start(node)
    reason = wait_said(lab, node, "hold: etcd reported damaged data", "walpb: crc mismatch")
    assert str(node.data) in reason and str(node.wal / "wal") in reason and "snapshot" in reason
    pause = wait_said(lab, node, "deciding again in", "or when a quorum answers")
    assert int(pause.partition("deciding again in ")[2].split()[0]) >= 30_000
    # etcd itself goes on writing to a backend it can open.
    assert tree(node.wal) == wal and tree(node.data / "member").keys() == files
    assert node.process.exit_code() is None and stop(node) == 0
    # The bit comes back, from a copy say, and with it everything.
    newest_wal(node).write_bytes(whole)
    start(node)
    wait_formed(lab, node)
    assert node.etcd.get("key-39") == "value" * 40


# Not the data's fault.


def test_a_twin_that_holds_the_data_is_named_and_waited_for(lab):
    """A forgotten unit runs another etcd over the same directory: its lock is the truth, and nobody deletes it."""
    (node,) = form(lab, 1, size=1)
    fill(lab, node)
    assert stop(node) == 0
    twin = lab.add_node(launch=False)
    places = [f"--data-dir={node.data}", f"--wal-dir={node.wal / 'wal'}"]
    urls = {"listen-client-urls": 2379, "advertise-client-urls": 2379, "listen-peer-urls": 2380}
    twin.start_plain_etcd([*places, *(f"--{name}=http://{twin.address}:{port}" for name, port in urls.items())])
    lab.wait(twin.etcd.health, BOUND, "the twin")
    since = mark(node)
    start(node)
    reason = wait_said(lab, node, "hold: another process has the data open", since=since)
    assert "flocked by another process" in reason and "stop that other etcd" in reason
    assert twin.etcd.health() and not list(node.data.glob("quarantine-*"))
    twin.power_off()
    wait_formed(lab, node)
    assert node.etcd.get("key-39") == "value" * 40 and not said(node, "ended by signal", since=since)


def test_a_second_supervisor_on_one_data_directory_is_named_and_waits(lab):
    """Two that write one ledger would break each other's promises; the second takes over when the first has gone."""
    (node,) = form(lab, 1, size=1)
    wait_said(lab, node, "is healthy and votes")
    pid, held = etcd_pid(node), tree(node.data / "muster")
    log = node.directory / "second"
    log.touch()
    second = Process([str(lab.muster), "run"], node.environment(), node.directory, log)
    try:
        lab.wait(lambda: "hold: another etcd-muster uses" in log.read_text(), BOUND, "a second one that waits")
        assert str(node.data) in log.read_text() and etcd_pid(node) == pid
        assert tree(node.data / "muster") == held
        assert stop(node) == 0
        lab.wait(lambda: "is healthy and votes" in log.read_text(), BOUND, "the second one's etcd")
    finally:
        second.end()


@pytest.mark.skipif(not IS_ROOT, reason="mounts a disk")
def test_a_full_disk_is_named_with_what_is_free_and_got_over(lab):
    """Space comes back; data that was wiped for a clean start doesn't."""
    (node,) = launch(lab, 1, size=1)
    with small_disk(node.data, "1m") as resize:
        start(node)
        wait_formed(lab, node)
        written = 0

        def is_full(since: int = 0) -> str | None:
            """Pages that were freed may hold a little more after a restart."""
            nonlocal written
            with suppress(*NOT_YET):
                while True:
                    node.etcd.put(f"key-{written}", "x" * 8000)
                    written += 1
            return said(node, "no space left on device", "free some", "deciding again in", since=since)

        line = lab.wait(is_full, BOUND, "a full disk")
        assert f"{node.data}) has 0 of 1 MiB free" in line and str(node.wal) in line
        # A supervisor that is restarted over a full disk holds on as well, though it can't write either.
        assert stop(node) == 0
        since = mark(node)
        start(node)
        lab.wait(lambda: is_full(since), BOUND, "a disk that is full again")
        assert node.process.exit_code() is None
        resize("64m")
        wait_formed(lab, node)
        assert node.etcd.get(f"key-{written - 1}") == "x" * 8000
        assert not list(node.data.glob("quarantine-*"))
        node.power_off()


@pytest.mark.skipif(not IS_ROOT, reason="mounts a disk")
def test_a_disk_that_is_full_at_the_first_start_is_waited_for(lab):
    """Exit 73 would keep the unit down for good, over something that passes."""
    (node,) = launch(lab, 1, size=1)
    with small_disk(node.data, "64k") as resize:
        with suppress(OSError):
            (node.data / "filler").write_bytes(bytes(1 << 20))
        start(node)
        wait_said(lab, node, "hold: ", "No space left on device", "free some space")
        (node.data / "filler").unlink()
        resize("64m")
        wait_formed(lab, node)
        node.power_off()


@pytest.mark.skipif(not IS_ROOT, reason="gives up root's rights")
def test_data_that_may_not_be_read_is_not_damaged_data(lab):
    """chown forgotten after a restore: etcd fails again and again, and nothing is wrong with the data."""
    lab.directory.chmod(0o755)
    wrapper = lab.directory / "as-nobody"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {lab.muster} "$@"\n')
    wrapper.chmod(0o755)
    lab.muster = wrapper
    (node,) = launch(lab, 1, size=1)
    subprocess.run(["chown", "-R", "65534:65534", str(node.directory)], check=True)
    start(node)
    wait_formed(lab, node)
    assert stop(node) == 0
    backend(node).chmod(0)
    start(node)
    lab.wait(lambda: node.log_text().count("; deciding again in") >= 2, BOUND, "two lives")
    assert "permission denied" in node.log_text() and not said(node, "etcd reported damaged data")
    assert not list(node.data.glob("quarantine-*"))
    backend(node).chmod(0o600)
    wait_formed(lab, node)


# Alarms.


@pytest.mark.release
@pytest.mark.core
def test_alarms_are_named_with_the_way_out_and_nobody_is_taken_for_dead(lab):
    """/health is false on every member then: to restart or remove them would make an outage of a full quota."""
    nodes = form(lab, 3, size=3, ETCD_QUOTA_BACKEND_BYTES="200000")
    for node in nodes:
        wait_said(lab, node, "is healthy and votes")
    before, pids = member_ids(nodes[0]), [etcd_pid(node) for node in nodes]
    since = [mark(node) for node in nodes]

    def is_full() -> bool:
        try:
            nodes[0].etcd.put("key", "x" * 8000)
        except EtcdError as error:
            return "space exceeded" in str(error)
        return False

    lab.wait(is_full, BOUND, "a quota that is used up")
    for node, told in zip(nodes, since):
        assert "etcdctl alarm disarm" in wait_said(lab, node, "is not healthy", "alarm NOSPACE", since=told)
    shown = command(lab, nodes[1], "health")
    assert shown.returncode == 1 and "alarm NOSPACE of member" in shown.stdout
    someone = before[nodes[0].peer_url]
    alarm(nodes[0], "ACTIVATE", someone, "CORRUPT")
    for node, told in zip(nodes, since):
        assert "hashkv" in wait_said(lab, node, "is not healthy", f"alarm CORRUPT of member {someone}", since=told)
    # A newcomer finds a full cluster, and everybody in it alive.
    spare = lab.add_node()
    start(spare)
    wait_said(lab, spare, "hold: ")
    assert member_ids(nodes[0]) == before and [etcd_pid(node) for node in nodes] == pids
    spare.power_off()
    since = [mark(node) for node in nodes]
    for raised in nodes[0].etcd.post("/v3/maintenance/alarm", {"action": "GET"})["alarms"]:
        alarm(nodes[0], "DEACTIVATE", format(int(raised["memberID"]), "x"), raised["alarm"])
    for node, told in zip(nodes, since):
        wait_said(lab, node, "is healthy and votes", since=told)
    assert member_ids(nodes[0]) == before and [etcd_pid(node) for node in nodes] == pids


def alarm(node, action: str, member: str, kind: str) -> None:
    node.etcd.post("/v3/maintenance/alarm", {"action": action, "memberID": str(int(member, 16)), "alarm": kind})
