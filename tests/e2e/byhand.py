"""Clusters of plain etcds that somebody set up by hand, clients that write all the while, and `etcd-muster adopt --check`."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

from fleet import BOUND, COMMAND_BOUND, QUICK
from muster_tools.lab.etcd import NOT_YET, EtcdClient
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.security import SIDES

PAUSE = 0.02  # seconds between two writes


class Writer:
    """Writes a key after the other through whichever of these takes it, and knows which were acknowledged."""

    def __init__(self, *nodes: Node):
        self.nodes = list(nodes)
        self.acknowledged: list[str] = []
        self.worst = 0  # how many of the nodes didn't answer at one time
        self.watched: list[Node] = []
        self._begun = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._watch)]

    def _write(self) -> None:
        while not self._stop.wait(PAUSE):
            self._begun += 1
            key = f"written-{self._begun}"
            if any(self._put(node, key) for node in list(self.nodes)):
                self.acknowledged.append(key)

    def _put(self, node: Node, key: str) -> bool:
        try:
            # A client of its own: the test's may be at work elsewhere, and is exchanged with the node's security.
            self._client(node).put(key, key)
            return True
        except NOT_YET:
            return False

    def _watch(self) -> None:
        while not self._stop.wait(PAUSE):
            down = [node for node in self.watched if not self._answers(node)]
            if len(down) > self.worst and len([node for node in down if not self._answers(node)]) > self.worst:
                self.worst = len(down)

    def _answers(self, node: Node) -> bool:
        try:
            self._client(node).get("any", serializable=True)
            return True
        except NOT_YET:
            return False

    @staticmethod
    def _client(node: Node) -> EtcdClient:
        ports = (node.etcd.client_port, node.etcd.peer_port)
        return EtcdClient(node.address, *ports, client_tls=node.security.client("client"))

    def wait_more(self, lab: Lab, more: int = 10) -> None:
        wanted = len(self.acknowledged) + more
        lab.wait(lambda: len(self.acknowledged) >= wanted, BOUND, f"{more} further writes")

    def lost(self, node: Node) -> list[str]:
        """Of the acknowledged writes those that this node doesn't have, read through the quorum."""
        return [key for key in self.acknowledged if node.etcd.get(key) != key]

    def __enter__(self) -> Writer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def move_ports(node: Node, client: int, peer: int) -> None:
    """The lab asks this node there from now on."""
    tls = (node.security.client(side) for side in SIDES)
    node.etcd = EtcdClient(node.address, client, peer, client_tls=next(tls), peer_tls=next(tls))


def peer_url(node: Node) -> str:
    return f"{node.security.scheme('peer')}://{node.address}:{node.etcd.peer_port}"


def client_url(node: Node) -> str:
    return f"{node.security.scheme('client')}://{node.address}:{node.etcd.client_port}"


def settings(node: Node, name: str, listed: dict[str, Node], **more: str) -> dict[str, str]:
    """As flags without their dashes: etcd's data directory in the node's, the WAL in its default place."""
    flags = {
        "name": name,
        "data-dir": str(node.data / "etcd"),
        "listen-client-urls": client_url(node),
        "advertise-client-urls": client_url(node),
        "listen-peer-urls": peer_url(node),
        "initial-advertise-peer-urls": peer_url(node),
        "initial-cluster": ",".join(f"{one}={peer_url(other)}" for one, other in listed.items()),
        "initial-cluster-token": "by-hand",
        "initial-cluster-state": "new",
    }
    for flag in node.security.etcd_flags(node.directory):
        key, _, value = flag.removeprefix("--").partition("=")
        flags[key] = value or "true"
    return {**flags, **{key.replace("_", "-"): value for key, value in more.items()}}


def as_variables(flags: dict[str, str]) -> dict[str, str]:
    return {f"ETCD_{key.upper().replace('-', '_')}": value for key, value in flags.items()}


def as_flags(flags: dict[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in flags.items()]


def start_by_flags(node: Node, flags: dict[str, str]) -> None:
    node.start_program([str(node.program), *as_flags(flags)], {"PATH": os.environ["PATH"]})


def start_by_env_file(node: Node, flags: dict[str, str]) -> Path:
    """As a unit with EnvironmentFile does."""
    file = node.directory / "etcd.env"
    file.write_text("# etcd\n" + "".join(f'{name}="{value}"\n' for name, value in as_variables(flags).items()))
    node.start_program([str(node.program)], {"PATH": os.environ["PATH"], **as_variables(flags)})
    return file


def start_by_config_file(node: Node, flags: dict[str, str]) -> Path:
    file = node.directory / "etcd.yaml"
    flags = {**flags, "enable-grpc-gateway": "true"}  # until 3.4 a configuration file turns it off
    file.write_text("# etcd\n" + "".join(f"{key}: {value}\n" for key, value in flags.items()))
    node.start_program([str(node.program), f"--config-file={file}"], {"PATH": os.environ["PATH"]})
    return file


# The check.


def surroundings(node: Node) -> dict[str, str]:
    """What the check is given besides its arguments: how the instances are found, and nothing of where data or etcd are."""
    wanted = ("PATH", "ED_HOME", "AWS_", "MUSTER_HOSTS", "MUSTER_TAGS", "MUSTER_CLUSTER_SIZE")
    return {name: value for name, value in node.environment().items() if name.startswith(wanted)}


def adopt(lab: Lab, node: Node, *arguments: str, code: int | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    enter = node.host.enter if node.host is not None else []
    done = subprocess.run(
        [*enter, str(lab.muster), "adopt", "--check", *arguments],
        env={**surroundings(node), **env},
        capture_output=True,
        text=True,
        timeout=COMMAND_BOUND,
        cwd=node.directory,
    )
    assert code is None or done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done


def printed(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The settings, as an EnvironmentFile is read."""
    rows = [line.partition("=") for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in rows}


def obstacles(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 1, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return [line.removeprefix("# not yet  ") for line in done.stdout.splitlines() if line.startswith("# not yet")]


def supervise(lab: Lab, node: Node, told: dict[str, str]) -> None:
    """etcd-muster with exactly these settings, where AWS is and the tests' short times besides."""
    aws = {name: value for name, value in node.environment().items() if name.startswith("AWS_")}
    node.start_program([str(lab.muster), "run"], {"PATH": os.environ["PATH"], **QUICK, **aws, **told})


def until_healthy(lab: Lab, *nodes: Node) -> None:
    lab.wait(lambda: all(node.etcd.health() for node in nodes), BOUND, "healthy members")
    for node in nodes:
        node.etcd.commit()  # a backend has what it applied a tenth of a second later only


def as_json(done: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(done.stdout)
