"""Members on machines of their own that go by name, as is the default: what one loopback for all of them can't show.

A hub is a whole process, so each test runs as one: this file as a script, with the test's name.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest
from fleet import BOUND, start
from muster_tools.lab import netns
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.etcd import NOT_YET, EtcdClient
from muster_tools.lab.netns import Hub
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.security import FILES, MINTED, Security

ENVIRONMENT = {
    "ETCD_MEMBER_TYPE": "host",
    "MUSTER_CLUSTER_SIZE": "3",
    "MUSTER_LOOPBACK_HTTP": "yes",
    "MUSTER_PROBE_TIMEOUT": "1s",
    "BOOTSTRAP_WAIT": "500ms",
}
GET = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:2379/health', timeout=5).read().decode())"


@pytest.mark.parametrize("mode", [FILES, MINTED])
def test_members_know_each_other_by_name_and_only_loopback_is_plain(binary, mode):
    """Each comes from its own address, which its certificate must be for; a check on the machine itself is plain."""
    trouble = netns.why_not()
    if trouble:
        pytest.skip(trouble)
    arguments = [sys.executable, __file__, str(binary), mode]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=2 * BOUND)
    assert done.returncode == 0, done.stdout + done.stderr


def inside(binary: Path, mode: str) -> None:
    hub = Hub().enter()
    with Ec2() as cloud, Lab(muster=binary, env=ENVIRONMENT, shared_ec2=cloud, hub=hub) as lab:
        lab.security = Security(mode, mode)
        nodes = [lab.add_node() for _ in range(3)]
        start(*nodes)
        named = {f"https://{node.instance.private_dns}:2380" for node in nodes}

        def is_formed() -> bool:
            urls = {url for member in nodes[0].etcd.members() for url in member.peer_urls}
            return urls == named and all(node.etcd.health() for node in nodes)

        lab.wait(is_formed, BOUND, "three healthy members by name")
        nodes[0].etcd.put("key", "value")
        assert nodes[2].etcd.get("key") == "value"
        for node in nodes:
            assert "true" in on(node, sys.executable, "-c", GET)
            assert "healthy" in on(node, str(binary), "health")
            with pytest.raises(NOT_YET):
                EtcdClient(node.address).health()


def on(node: Node, *program: str) -> str:
    done = subprocess.run(
        [*node.host.enter, *program], env=node.environment(), capture_output=True, text=True, timeout=BOUND
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    inside(Path(sys.argv[1]), sys.argv[2])
