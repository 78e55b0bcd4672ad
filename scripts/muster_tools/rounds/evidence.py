"""What a round left behind: read from logs and disks when it is over, so that nothing depends on when one looked."""

from __future__ import annotations

import re

from muster_tools.lab import wal
from muster_tools.lab.node import Node

# etcd 3.4 and 3.5 say so in every life, before they speak to a peer.
ETCD_BEGINS = re.compile(r'"msg":"(?:re)?starting local member"[^\n]*?"cluster-id":"([0-9a-f]+)"')
SPAWNED = "etcd-muster: etcd runs as process "
ALONE = "etcd-muster: bootstrap alone: "
CHOSEN = "etcd-muster: chosen: "
VIEW = "etcd-muster: view: "
SEEN = re.compile(r"(i-[0-9a-f]+) (fresh|etcd of|has data|connection refused|unreachable|unusable answer)")


def cluster_ids(nodes: list[Node]) -> set[str]:
    """Of every etcd that ever began: by its own log, and by its WAL if it was killed before it could log."""
    logged = {found for node in nodes for found in ETCD_BEGINS.findall(node.log_text())}
    return logged.union(*(wal.cluster_ids(node.directory) for node in nodes))


def etcds_started(nodes: list[Node]) -> int:
    return sum(node.log_text().count(SPAWNED) for node in nodes)


def founded_alone(nodes: list[Node]) -> bool:
    return any(ALONE in node.log_text() for node in nodes)


def founded_without(nodes: list[Node]) -> int:
    """How many of the instances had not answered when the first members were chosen (rule R3)."""
    foundings = [founding for node in nodes for founding in _foundings(node)]
    return len(nodes) - 1 - min(foundings)[1] if foundings else 0


def _foundings(node: Node) -> list[tuple[str, int]]:
    """When this node saw a list chosen, and how many others its proposal had seen fresh."""
    found, fresh = [], 0
    for line in node.log_text().splitlines():
        if VIEW in line:
            fresh = sum(sighting == "fresh" for _, sighting in SEEN.findall(line))
        elif CHOSEN in line:
            found.append((line.partition(" ")[0], fresh))
    return found
