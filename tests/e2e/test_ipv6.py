"""Hosts that have IPv6 addresses and no others: listed by EC2, and by an operator; plain, and with minted certificates.

In network namespaces, as test_roster.py's: loopback has one IPv6 address, a fleet needs several.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest
from fleet import BOUND, start, wait_formed
from muster_tools.lab.ec2_front import Ec2Front
from muster_tools.lab.imds import Imds
from muster_tools.lab.node import Node
from muster_tools.lab.security import MINTED, Security
from test_roster import a_lab, in_a_hub, run_on

HUB = "fd77::1"


@pytest.fixture(scope="module", autouse=True)
def _ipv6():
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")


def on_ipv6_alone(lab) -> Node:
    """A node whose host has no IPv4 address but loopback's."""
    node = lab.add_node(launch=False)
    old, node.address = node.address, f"fd77::{node.address.rpartition('.')[2]}"
    ip = ["ip", "-n", node.host.name]
    subprocess.run([*ip, "addr", "add", f"{node.address}/64", "dev", "eth0", "nodad"], check=True)
    subprocess.run([*ip, "addr", "del", f"{old}/24", "dev", "eth0"], check=True)
    node.secure(lab.security)
    return node


def three(lab) -> list[Node]:
    subprocess.run(["ip", "addr", "add", f"{HUB}/64", "dev", "hub", "nodad"], check=True)
    return [on_ipv6_alone(lab) for _ in range(3)]


def as_ec2_lists_it(nodes: list[Node]):
    """Moto knows no such instances: their IPv4 addresses in its answers become these."""
    addresses = {node.instance.private_ip: node.address for node in nodes}

    def rule(call, proceed):
        reply = proceed()
        for old, new in addresses.items():
            text = re.sub(f"<privateIpAddress>{re.escape(old)}</privateIpAddress>", f"<ipv6Address>{new}</ipv6Address>", reply.body.decode())
            reply.body = text.encode()
        return reply

    return rule


def launch(lab, nodes: list[Node]) -> None:
    for node in nodes:
        number = node.address.rpartition(":")[2]
        instance = lab.ec2.launch(f"{lab.network}.{number}", name=node.directory.name)
        imds = Imds(instance, lab.ec2.role_credentials, port=0, address=HUB)
        imds.identity["privateIp"] = None
        imds.meta_data["ipv6"] = node.address
        del imds.meta_data["local-ipv4"]
        node.attach(instance, imds, Ec2Front(lab.ec2.url, HUB))
    for node in nodes:
        node.front.add(as_ec2_lists_it(nodes), action="DescribeInstances")


def works(lab, nodes: list[Node]) -> None:
    start(*nodes)
    wait_formed(lab, *nodes)
    nodes[0].etcd.put("key", "value")
    assert nodes[2].etcd.get("key") == "value"
    node = nodes[1]
    assert node.client_url.partition("//")[2].startswith("[fd77::")
    assert node.client_url in run_on(lab, node, "etcdctl-env")
    assert run_on(lab, node, "health", "--cluster").count("healthy") == 3
    members = json.loads(run_on(lab, node, "members", "--json"))
    assert sorted(member["peerURLs"] for member in members["members"]) == sorted([one.peer_url] for one in nodes)
    assert not members["notes"]
    assert f"listed as {node.peer_url}" in run_on(lab, node, "plan")
    listed = sorted(row.split()[2] for row in run_on(lab, node, "discover").splitlines()[1:4])
    assert listed == [one.address for one in nodes]

    def is_ready() -> bool:
        with urllib.request.urlopen(f"http://[{node.address}]:2382/readyz", timeout=5) as answer:
            return answer.status == 200

    lab.wait(is_ready, BOUND, "readiness")


@in_a_hub
def test_instances_with_ipv6_addresses_alone_become_one_cluster(lab):
    lab.env["MUSTER_STATUS_LISTEN"] = "[::]:2382"
    for name in ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        del lab.env[name]
    nodes = three(lab)
    launch(lab, nodes)
    works(lab, nodes)


@in_a_hub
def test_a_written_list_of_ipv6_addresses_with_minted_certificates_becomes_one_cluster(lab):
    lab.security = Security(MINTED, MINTED)
    nodes = three(lab)
    listed = ",".join(f"db-{place}=[{node.address}]" for place, node in enumerate(nodes, 1))
    for node in nodes:
        node.env |= {"MUSTER_HOSTS": f"static:{listed}", "MUSTER_STATUS_LISTEN": f"[{node.address}]:2382"}
    works(lab, nodes)


if __name__ == "__main__":
    name, *where = sys.argv[1:]
    with a_lab(*where) as one_lab:
        globals()[name].inside(one_lab)
