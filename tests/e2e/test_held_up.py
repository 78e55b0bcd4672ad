"""Nothing outside holds the supervisor up: a log that nobody reads, a disk, a limit or a file that fails it. What passes is waited for."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fleet import (
    BOUND,
    alive,
    command,
    complaint,
    etcd_pid,
    form,
    launch,
    mark,
    rank,
    replace_etcd,
    start,
    stop,
    wait_formed,
    wait_said,
)
from muster_tools.lab.node import Node
from test_exits import small_disk

STATE_UNREADABLE, SYSTEM, UNWRITABLE = 65, 71, 73
MNT_DETACH = 2
STATUS_PORT = 2381

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk, or gives up root's rights")

# The log.


@contextmanager
def unread_log(node: Node):
    """Whatever this node starts next writes to a pipe of one page that nobody reads, until the block does so by this descriptor."""
    pipe = node.directory / "unread"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    kept, node.log = node.log, pipe
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        start(node)
        node.log = kept
        yield reader
    finally:
        node.log = kept
        os.close(reader)


def metric(node: Node, name: str) -> int:
    with urllib.request.urlopen(f"http://{node.address}:{STATUS_PORT}/metrics", timeout=5) as answer:
        return int(re.search(rf"^{name} (\d+)$", answer.read().decode(), re.M)[1])


FLOOD = "awk 'BEGIN { for (i = 0; i < 4000; i++) { printf \"%01000d\\n\", i } }' >&2\nexec $ETCD"


@pytest.mark.parametrize("form_of_lines", ["text", "json"])
def test_a_log_that_nobody_reads_holds_up_neither_etcd_nor_a_stop(lab, form_of_lines):
    """A log driver that blocks, docker's default for a remote one: the database is no part of the log."""
    (node,) = launch(lab, 1, size=1, MUSTER_LOG_FORMAT=form_of_lines)
    node.env["MUSTER_STATUS_LISTEN"] = f"{node.address}:{STATUS_PORT}"
    replace_etcd(node, FLOOD)  # four times what is kept
    with unread_log(node) as reader:
        wait_formed(lab, node)
        dropped = lab.wait(lambda: metric(node, "etcd_muster_log_lines_dropped_total"), BOUND, "lines that were dropped")
        node.etcd.put("key", "value")
        told = b""

        def hears_of_it() -> bool:
            nonlocal told
            with suppress(BlockingIOError):
                while piece := os.read(reader, 1 << 16):
                    told += piece
            return b"lines are missing here" in told

        lab.wait(hears_of_it, BOUND, "word of what is missing")
        *whole, _ = told.decode().split("\n")
        numbered = [line for line in whole if line.isdigit()]
        assert numbered and all(len(line) == 1000 for line in numbered), "no line is torn"
        assert [int(line) for line in numbered] == sorted(int(line) for line in numbered)
        (word,) = [line for line in whole if "lines are missing here" in line]
        assert int(re.search(r"(\d+) lines are missing here", word)[1]) >= dropped
        if form_of_lines == "json":
            assert json.loads(word)["level"] == "warn"
        # Nobody reads any more, as long as it takes to fill what there is.
        dropped = metric(node, "etcd_muster_log_lines_dropped_total")
        os.kill(etcd_pid(node), signal.SIGKILL)
        lab.wait(lambda: metric(node, "etcd_muster_log_lines_dropped_total") > dropped, BOUND, "a queue that is full again")
        assert stop(node) == 0


# Children.


def test_an_etcd_that_a_real_time_signal_ends_is_started_again(lab):
    """Go leaves some of them at their default: whatever sends one, etcd is gone, and a stop must still find an end."""
    (node,) = form(lab, 1, size=1)
    since, ended = mark(node), etcd_pid(node)
    os.kill(ended, 34)
    wait_said(lab, node, "etcd was ended by signal 34", since=since)
    wait_formed(lab, node)
    assert etcd_pid(node) != ended
    assert stop(node) == 0


# Disks and limits.


@contextmanager
def full(node: Node, place: Path):
    """A small disk with nothing free on it; yielded: what makes room."""
    with small_disk(place, "64k") as resize:
        with suppress(OSError):
            (place / "filler").write_bytes(bytes(1 << 20))

        def make_room() -> None:
            (place / "filler").unlink()
            resize("96m")

        try:
            yield make_room
        finally:
            node.power_off()


@needs_root
def test_a_wal_volume_that_is_full_at_the_first_start_is_waited_for(lab):
    """Exit 73 would keep the unit down for good, over something that passes."""
    (node,) = launch(lab, 1, size=1)
    with full(node, node.wal) as make_room:
        start(node)
        line = wait_said(lab, node, "hold: ", "No space left on device", "free some space")
        assert str(node.wal) in line
        shown = lab.wait(lambda: command(lab, node, "status", "--json").stdout, BOUND, "its status")
        assert node.process.exit_code() is None and json.loads(shown)
        make_room()
        wait_formed(lab, node)
        assert not list(node.data.glob("quarantine-*")) and not list(node.wal.glob("quarantine-*"))


@contextmanager
def between_choice_and_start(lab, first: Node, node: Node):
    """`node` is frozen after it has learnt the list, and before what must be on record for a first start is.

    In there it waits half a second for the first etcd to serve its peer port, which that one doesn't before the block is left. Where
    the freeze came too late the two begin again, as new.
    """
    rank(lab, first, node)
    go = first.directory / "go"
    replace_etcd(first, f'until [ -e {go} ]; do sleep 0.02; done\nexec $ETCD "$@"')
    for _ in range(20):
        since = mark(node)
        start(first, node)
        wait_said(lab, node, "start new", since=since)
        node.kill(signal.SIGSTOP)
        ledger = json.loads((node.data / "muster" / "ledger.json").read_text())
        if ledger["chosen"] and not ledger["founded"]:
            break
        for late in (first, node):
            late.power_off()
            for entry in [*late.data.iterdir(), *late.wal.iterdir()]:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    else:
        pytest.fail("it never was between choice and start")
    yield
    node.kill(signal.SIGCONT)
    go.touch()


@needs_root
def test_a_disk_that_fills_up_between_the_choice_and_the_start_is_waited_for(lab):
    """The one moment at which a promise is on disk and the start is not: it is put on record once there is room, and etcd starts."""
    first, node = launch(lab, 2, size=2)
    with small_disk(node.data, "96m") as resize:
        try:
            with between_choice_and_start(lab, first, node):
                filler = (node.data / "filler").open("wb", buffering=0)
                with filler, suppress(OSError):
                    while filler.write(bytes(1 << 12)):
                        pass
            assert str(node.data) in wait_said(lab, node, "hold: ", "No space left on device", "free some space")
            assert node.process.exit_code() is None and not node.etcd_pids()
            (node.data / "filler").unlink()
            resize("97m")
            wait_formed(lab, first, node)
        finally:
            node.power_off()


def test_too_many_open_files_are_waited_for(lab):
    """A limit of a moment, or one that somebody raises: nobody starts a unit again that has ended with 73."""
    first, node = launch(lab, 2, size=2)
    with between_choice_and_start(lab, first, node):
        pid = node.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    line = wait_said(lab, node, "hold: ", "(os error 24)", "LimitNOFILE")
    assert "move" not in line and node.process.exit_code() is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    wait_formed(lab, first, node)


def test_an_etcd_that_is_being_replaced_in_place_is_waited_for(lab):
    """cp over a running release: the file is busy for a moment, at a first start as at any other."""
    (node,) = launch(lab, 1, size=1)
    replace_etcd(node, "exec $ETCD \"$@\"")
    program = node.home / "bin" / "etcd"
    with program.open("r+b"):
        start(node)
        assert str(program) in wait_said(lab, node, "hold: ", "can't be run: Text file busy")
        assert node.process.exit_code() is None
    wait_formed(lab, node)
    since = mark(node)
    with program.open("r+b"):
        os.kill(etcd_pid(node), signal.SIGKILL)
        wait_said(lab, node, "hold: ", "can't be run: Text file busy", since=since)
        assert node.process.exit_code() is None
    wait_formed(lab, node)


@needs_root
@pytest.mark.parametrize("place", ["muster", "muster/ledger.json"])
def test_a_permission_is_never_a_reason_to_move_data_away(lab, place):
    """chown forgotten after a restore: who followed the advice that was given then lost a member."""
    lab.directory.chmod(0o755)
    wrapper = lab.directory / "as-nobody"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {lab.muster} "$@"\n')
    wrapper.chmod(0o755)
    (node,) = form(lab, 1, size=1)
    assert stop(node) == 0
    subprocess.run(["chown", "-R", "65534:65534", str(node.directory)], check=True)
    os.chown(node.data / place, 0, 0)
    (node.data / place).chmod(0o700 if place == "muster" else 0o600)
    lab.muster = wrapper
    line = complaint(command(lab, node, "run"), UNWRITABLE if place == "muster" else STATE_UNREADABLE)
    assert f"chown -R 65534 {node.data / place}" in line and "move" not in line


@contextmanager
def mute_mount(place: Path):
    """A file system of which nobody answers for: whatever looks there waits until this ends, as over a mount whose server is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    try:
        if libc.mount(b"mute", str(place).encode(), b"fuse", 0, options.encode()) != 0:
            pytest.skip(f"no mount can be had: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.umount2(str(place).encode(), MNT_DETACH)
    finally:
        os.close(server)


@needs_root
@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse is needed")
@pytest.mark.parametrize("etcd", ["runs", "has ended"])
def test_a_main_thread_that_hangs_over_a_dead_mount_is_stopped_all_the_same(lab, etcd):
    """SIGTERM was never obeyed again once our own directory answered no more: etcd ran on until somebody killed them both."""
    (node,) = launch(lab, 1, size=1, MUSTER_STOP_TIMEOUT="5s")
    may_serve = lab.directory / "may-serve"
    replace_etcd(node, f'until [ -e {may_serve} ]; do sleep 0.05; done; exec $ETCD "$@"')
    start(node)
    wait_said(lab, node, "etcd runs as process")
    with mute_mount(node.data / "muster"):
        may_serve.touch()  # which is to be recorded
        lab.wait(lambda: node.etcd.health(), BOUND, "etcd that serves")
        pid = etcd_pid(node)
        if etcd == "has ended":
            os.kill(pid, signal.SIGKILL)
        node.kill(signal.SIGTERM)
        assert node.wait_exit(BOUND) == SYSTEM
        assert "etcd-muster: stopped by the watchdog thread" in node.log_text()
        lab.wait(lambda: not alive(pid), BOUND, "end of etcd")
    start(node)
    wait_formed(lab, node)


# Files.


def test_a_pipe_in_place_of_the_ledger_is_named(lab):
    """What waits for a writer for ever looks like a supervisor that hangs."""
    node = lab.add_node(launch=False)
    (node.data / "muster").mkdir()
    ledger = node.data / "muster" / "ledger.json"
    os.mkfifo(ledger)
    line = complaint(command(lab, node, "run"), STATE_UNREADABLE)
    assert str(ledger) in line and "a pipe, not a regular file" in line


@contextmanager
def dead_mount(place: Path):
    """A file system whose server has taken the mount and answers nothing: as NFS whose server is gone, but for a SIGKILL."""
    libc = ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"dead", str(place).encode(), b"fuse", 0, options) != 0:
            pytest.skip(f"no FUSE here: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.umount2(str(place).encode(), 2)  # MNT_DETACH
    finally:
        os.close(server)  # which ends whoever waits


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse")
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
def test_a_dead_mount_keeps_no_member_from_its_data_and_no_stop_waiting(lab, variable):
    """What AWS is asked with lies there: AWS can't be asked, and that is all."""
    (node,) = form(lab, 1, size=1)
    node.etcd.put("key", "value")
    assert stop(node) == 0
    mount = lab.directory / "mount"
    with dead_mount(mount):
        node.env[variable] = str(mount / "file")
        if variable == "AWS_CA_BUNDLE":
            node.env["AWS_ENDPOINT_URL_EC2"] = node.front.url.replace("http:", "https:")
        else:
            node.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://127.0.0.1:9/"
        # Before the node: two that look up one name wait for each other in the kernel, where no signal reaches them.
        shown = command(lab, node, "discover").stderr
        assert str(mount / "file") in shown and "did not answer within 3 s (a dead mount?)" in shown
        start(node)
        wait_formed(lab, node)
        assert node.etcd.get("key") == "value"
        assert stop(node) == 0


# The watchdog.


def test_systemds_watchdog_is_fed_whatever_is_waited_for(lab):
    """WatchdogSec ends a supervisor that hangs, and its etcd with it: one that waits for years for others must not be taken for that."""
    one, other = launch(lab, 2, size=2)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager:
        manager.bind(str(one.directory / "notify"))
        manager.setblocking(False)
        fed = 0

        def is_fed(times: int) -> bool:
            nonlocal fed
            with suppress(BlockingIOError):
                while True:
                    fed += manager.recv(4096) == b"WATCHDOG=1"
            return fed >= times

        one.env.update(NOTIFY_SOCKET=str(one.directory / "notify"), WATCHDOG_USEC="200000")
        start(one)
        wait_said(lab, one, "hold: ")
        assert lab.wait(lambda: is_fed(5), BOUND, "a watchdog that is fed while others are awaited")
        start(other)
        wait_formed(lab, one, other)
        so_far = fed
        lab.wait(lambda: is_fed(so_far + 5), BOUND, "a watchdog that is fed while etcd runs")
        assert stop(one) == 0
        # Meant for another process, as for a wrapper around this one.
        is_fed(0)
        fed = 0
        one.env["WATCHDOG_PID"] = "1"
        start(one)
        wait_formed(lab, one, other)
        assert stop(one) == 0 and not is_fed(1)
