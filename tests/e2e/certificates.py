"""What the tests of TLS share: certificates as they are served, callers that are turned away, and etcdctl."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from fleet import COMMAND_BOUND
from muster_tools.lab.etcd import NOT_YET, EtcdClient
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.security import AUTO, PLAIN, SIDES

HANDSHAKE_SECONDS = 2
ETCDCTL = 'program=$1 etcdctl=$2; shift 2; told=$("$program" etcdctl-env) && eval "$told" && exec "$etcdctl" "$@"'


def fleets_of_one(lab: Lab, count: int, **env: str) -> list[Node]:
    """Nodes that have nothing to do with each other: each tag is a fleet's."""
    made = []
    for place in range(count):
        # They look again soon, so that a test that mends something goes on soon.
        own = {"BOOTSTRAP_WAIT": "200ms", "MUSTER_CLUSTER_SIZE": "1", "MUSTER_TAGS": f"fleet={place}", **env}
        made.append(lab.add_node(env=own, tags={"fleet": str(place)}))
    return made


def port(node: Node, side: str) -> int:
    return node.etcd.client_port if side == "client" else node.etcd.peer_port


def served(node: Node, side: str, name: str | None = None) -> x509.Certificate:
    """The certificate that a new connection is shown; verified for its address or this name, where one could."""
    context = node.security.client(side)
    with socket.create_connection((node.address, port(node, side)), HANDSHAKE_SECONDS) as connection:
        with context.wrap_socket(connection, server_hostname=name or node.address) as secured:
            return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True))


def loaded(path: Path) -> x509.Certificate:
    """The first certificate of a file."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def demands(node: Node, side: str) -> bool:
    """A CA is there, so callers must have its word."""
    return node.security.modes[side] not in (PLAIN, AUTO)


def without_certificate(node: Node) -> EtcdClient:
    """Trusts the right CA, and has nothing to show."""
    client, peer = (node.security.context(side, certified=False) for side in SIDES)
    return EtcdClient(node.address, client_tls=client, peer_tls=peer)


def turns_strangers_away(node: Node) -> None:
    """Nobody gets in without a certificate where one is asked for, and plain gets nothing where TLS is spoken."""
    stranger, plain = without_certificate(node), EtcdClient(node.address)
    for side, ask, ask_plainly in (
        ("client", lambda: stranger.put("stranger", "in"), lambda: plain.put("plain", "in")),
        ("peer", stranger.peer_version, plain.peer_version),
    ):
        if demands(node, side):
            with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
                ask()
        else:
            ask()
        if node.security.modes[side] != PLAIN:
            with pytest.raises(NOT_YET):
                ask_plainly()
    assert node.etcd.get("stranger") == (None if demands(node, "client") else "in")
    assert node.etcd.get("plain") is None


def etcdctl(lab: Lab, node: Node, *arguments: str, **env: str) -> str:
    """etcd's own client, told by `etcd-muster etcdctl-env` how to reach this node's etcd."""
    done = subprocess.run(
        ["sh", "-c", ETCDCTL, "sh", str(lab.muster), str(lab.etcd_binary.with_name("etcdctl")), *arguments],
        env={**node.environment(), **env},
        capture_output=True,
        text=True,
        timeout=COMMAND_BOUND,
        cwd=node.directory,
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
