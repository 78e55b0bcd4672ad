"""What the tests do with several nodes, and read from what they say."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Iterator

import pytest
from muster_tools.lab import install
from muster_tools.lab.ec2_faults import launched
from muster_tools.lab.etcd import Member
from muster_tools.lab.node import Lab, Node

BOUND = 60  # seconds; every wait ends with its condition, this is for the day it never comes
COMMAND_BOUND = 60
IS_ROOT = os.geteuid() == 0

# Short where the point isn't the default; the debug log has a line for every look.
QUICK = {
    "MUSTER_LOG": "debug",
    "MUSTER_BOOTSTRAP_GRACE": "2s",
    "MUSTER_REMOVE_AFTER": "1s",
    "MUSTER_PROBE_TIMEOUT": "1s",
    "BOOTSTRAP_WAIT": "500ms",
}

# Who answers or refuses at once: a busy machine must not make it silent. Not where somebody is silent, for each look waits as long.
PATIENT = {"MUSTER_PROBE_TIMEOUT": "10s"}

# Forming.


def launch(lab: Lab, count: int, size: int | None = None, **env: str) -> list[Node]:
    """Nodes that are not started yet; `size` is MUSTER_CLUSTER_SIZE."""
    if size is not None:
        env["MUSTER_CLUSTER_SIZE"] = str(size)
    lab.env.update(env)  # for nodes added later too
    return [lab.add_node() for _ in range(count)]


def start(*nodes: Node) -> None:
    for node in nodes:
        node.start()


def rank(lab: Lab, *nodes: Node) -> None:
    """EC2 shows these nodes a minute older than the others, the first the oldest: launches in a test share a second."""
    rules = [launched(timedelta(seconds=120 - place), node.instance.id) for place, node in enumerate(nodes)]
    for node in lab.nodes:
        if node.front is not None:
            for rule in rules:
                node.front.add(rule)


def wait_formed(lab: Lab, *nodes: Node, bound: float = BOUND) -> str:
    """Exactly these nodes are the healthy voters of one cluster; its id."""

    def is_formed() -> str | None:
        addresses = sorted(node.peer_url for node in nodes)
        ids = {node.etcd.cluster_id() for node in nodes if node.etcd.health()}
        views = [node.etcd.members() for node in nodes]
        whole = all(
            sorted(url for member in view for url in member.peer_urls) == addresses and all(map(is_voter, view))
            for view in views
        )
        return ids.pop() if whole and len(ids) == 1 and all(node.etcd.health() for node in nodes) else None

    return lab.wait(is_formed, bound, f"one cluster of {len(nodes)} healthy voters")


def form(lab: Lab, count: int, size: int | None = None, **env: str) -> list[Node]:
    nodes = launch(lab, count, size, **env)
    start(*nodes)
    wait_formed(lab, *nodes)
    return nodes


def keep(nodes: list[Node], key: str, value: str) -> None:
    """A write that a kill of them all must leave in each: etcd 3.5.1 itself may lose one that it hasn't committed."""
    nodes[0].etcd.put(key, value)
    for node in nodes:
        assert node.etcd.get(key) == value
        node.etcd.commit()


def is_voter(member: Member) -> bool:
    return bool(member.name) and not member.learner


def member_ids(node: Node) -> dict[str, str]:
    """Member id by peer URL."""
    return {member.peer_urls[0]: member.id for member in node.etcd.members()}


def leader_of(lab: Lab, *nodes: Node) -> Node:
    """An election may be under way at any time on a busy machine."""
    return lab.wait(lambda: next((node for node in nodes if node.etcd.is_leader()), None), BOUND, "a leader")


def remove_member(lab: Lab, at: Node, member_id: str) -> None:
    """By hand; etcd refuses until its peers have been connected for five seconds, and what seemed to fail may have been done."""
    body = {"ID": str(int(member_id, 16))}
    removed = lambda: member_id not in member_ids(at).values() or at.etcd.post("/v3/cluster/member/remove", body)
    lab.wait(removed, BOUND, "a member removed by hand")


def predicted_cluster_id(initial_cluster: str, token: str) -> str:
    """What etcd makes of a list and a token (membership.NewMember, RaftCluster.genID), one URL a member."""
    urls = [pair.partition("=")[2] for pair in initial_cluster.split(",")]
    ids = sorted(hashlib.sha1(f"{url}{token}".encode()).digest()[:8] for url in urls)
    return format(int.from_bytes(hashlib.sha1(b"".join(ids)).digest()[:8], "big"), "x")


# What a supervisor says.


def lines(node: Node, since: int = 0) -> list[str]:
    """The supervisor's own lines, without time and level; `since`, all but the first so many."""
    spoken = [line.partition("etcd-muster: ")[2] for line in node.log_text().splitlines() if "etcd-muster: " in line]
    return spoken[since:]


def mark(node: Node) -> int:
    """For `since`: what is said from now on."""
    return len(lines(node))


def said(node: Node, *parts: str, since: int = 0) -> str | None:
    """The last line that holds all these parts."""
    return next((line for line in reversed(lines(node, since)) if all(part in line for part in parts)), None)


def wait_said(lab: Lab, node: Node, *parts: str, since: int = 0) -> str:
    return lab.wait(lambda: said(node, *parts, since=since), BOUND, f"line of {node.address} with {parts}")


def looks(node: Node, since: int = 0) -> int:
    """How often it has observed and decided."""
    return sum(line.startswith("view: ") for line in lines(node, since))


def wait_looks(lab: Lab, *nodes: Node, more: int = 3) -> None:
    """So many further looks: what they did not change by then they had every chance to change."""
    wanted = {node.address: looks(node) + more for node in nodes}
    for node in nodes:
        lab.wait(lambda: looks(node) >= wanted[node.address], BOUND, f"{more} further looks of {node.address}")


def looks_since(node: Node, text: str) -> int:
    """Looks after the last line that holds this text."""
    spoken = lines(node)
    last = max((place for place, line in enumerate(spoken) if text in line), default=len(spoken))
    return sum(line.startswith("view: ") for line in spoken[last:])


def goes_on_answering(lab: Lab, node: Node) -> None:
    """Its roll call says no to others, many times over: for longer than the longest pause between two looks here."""
    answers = [0]

    def answered_often() -> bool:
        assert node.etcd.request("GET", "/members", node.etcd.peer_port)[0] in (404, 503)
        answers[0] += 1
        return answers[0] >= 50

    lab.wait(answered_often, BOUND, "answers")


# Processes and directories.


def etcd_pid(node: Node) -> int:
    (pid,) = node.etcd_pids()
    return pid


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def stop(node: Node) -> int:
    """SIGTERM to the supervisor, and its exit code."""
    node.kill(signal.SIGTERM)
    return node.wait_exit(BOUND)


def tree(*folders: Path, below: str = "") -> dict[str, str]:
    """Every file under these folders and a digest of what is in it; `below` takes the paths from that part on."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = str(path)
                if below and f"/{below}/" not in name:
                    continue
                name = name[name.index(f"/{below}/") :] if below else name
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def command(lab: Lab, node: Node, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One run of the program on that node to its end, stdout and stderr apart."""
    enter = node.host.enter if node.host is not None else []
    return subprocess.run(
        [*enter, str(lab.muster), *arguments],
        env={**node.environment(), "MUSTER_LOG": "info", **env},
        capture_output=True,
        text=True,
        timeout=COMMAND_BOUND,
        cwd=node.directory,
    )


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a run that ended with this code."""
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    (line,) = [line for line in done.stderr.splitlines() if " WARN " not in line and " INFO " not in line]
    assert line.startswith("etcd-muster: "), line
    return line


# What else may listen on a node's address.


@contextmanager
def occupied(address: str, port: int, answer: bytes | None = None) -> Iterator[None]:
    """A listener that is no etcd: mute, or with these bytes to whoever connects."""
    with socket.create_server((address, port), backlog=64) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.settimeout(1)
                    connection.recv(4096)  # unread bytes would turn the close into a reset
                    connection.sendall(answer)

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            if answer is not None:
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept


def replace_etcd(node: Node, script: str) -> None:
    """This shell text in place of etcd; `$ETCD` in it is the real one."""
    program = node.home / "bin" / "etcd"
    real = os.path.realpath(program)
    program.unlink()
    program.write_text(f"#!/bin/sh\nETCD={real}\n[ \"$1\" = --version ] && exec $ETCD --version\n{script}\n")
    program.chmod(0o755)


def put_etcd(node: Node, release: str) -> None:
    """That release is installed on the node from now on; what runs there runs on."""
    programs = install.etcd_binaries(release)
    if not programs.is_dir():
        pytest.skip(f"etcd {release} is not installed: scripts/install-lab --with-etcd {release}")
    node.install_etcd(programs / "etcd")


def restore_etcd(lab: Lab, node: Node) -> None:
    node.install_etcd(lab.etcd_binary)


def field(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    assert found, f"no {pattern} in {text}"
    return found[1]


# Disks.


@contextmanager
def small_disk(place: Path, size: str):
    """In memory, and in place of that directory; what it yields makes it larger. For root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(place)], check=True)
    try:
        yield lambda more: subprocess.run(["mount", "-o", f"remount,size={more}", str(place)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def used(place: Path) -> str:
    """How large that disk has to be for what it holds, and no larger."""
    disk = os.statvfs(place)
    return str((disk.f_blocks - disk.f_bfree) * disk.f_frsize)
