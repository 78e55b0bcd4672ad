"""What is agreed on must be possible: a name, a URL or a list that etcd would refuse is refused where it comes in, and nobody's word
from outside stops a founding or steers it. Each is mended by what it says, and the fleet then forms."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest
from fleet import BOUND, launch, lines, looks, mark, said, start, tree, wait_formed, wait_looks
from muster_tools.lab.ec2_faults import edited
from muster_tools.lab.etcd import PEER_PORT
from test_bad_days import CONFIG
from test_disks import a_cloud, in_a_cloud

NOWHERE = "http://192.0.2.1:2380"  # RFC 5737: nobody's address

# Settings.


def refuses(lab, node, variable: str) -> str:
    """It ends at once with the exit code for settings and one line that names the variable; nothing was agreed on."""
    since = mark(node)
    start(node)
    lab.wait(lambda: node.process.exit_code() is not None or looks(node, since), BOUND, "exit, or a first look")
    assert node.process.exit_code() == CONFIG, f"it went on: {node.log_tail()}"
    (line,) = [line for line in lines(node, since) if variable in line]
    return line


@pytest.mark.core
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ETCD_NAME", f"x={NOWHERE},db-3"),
        ("ETCD_NAME", "db-3,db-4"),
        ("ETCD_NAME", '"node-1"'),
        ("ETCD_NAME", "'node-1'"),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "10.0.0.1:2380"),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://10.0.0.1"),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", '"http://10.0.0.1:2380"'),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://db-1 other.example:2380"),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://10.0.0.1:2380/etcd"),
    ],
)
def test_a_listing_that_etcd_would_refuse_ends_before_anything_is_agreed_on(lab, variable, value):
    """Quotes that an --env-file keeps, a scheme forgotten: all agreed on it, and mending the setting didn't mend the fleet. One
    name with a list in it gave the cluster a fourth voter that doesn't exist."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")
    wrong = nodes[2]
    wrong.env[variable] = value
    assert value.strip() in refuses(lab, wrong, variable)
    assert not tree(wrong.data, wrong.wal)
    del wrong.env[variable]
    mended = mark(wrong)
    start(*nodes)
    wait_formed(lab, *nodes)
    assert not any(said(node, NOWHERE, since=mended if node is wrong else 0) for node in nodes)


def test_a_list_that_nobody_could_start_gives_way_to_mended_settings(lab):
    """All agreed on it, etcd refused a setting on each, and the operator mended that and the ports in one go: no etcd ever had a WAL
    under that list, so it binds nobody."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")
    for node in nodes:
        node.env["ETCD_HEARTBEAT_INTERVAL"] = "often"
    start(*nodes)
    for node in nodes:
        assert node.wait_exit(BOUND) == CONFIG
        del node.env["ETCD_HEARTBEAT_INTERVAL"]
        node.env["PEER_PORT"] = "2480"
    start(*nodes)

    def is_formed() -> bool:
        urls = {url for member in nodes[0].etcd.members() for url in member.peer_urls}
        return urls == {f"http://{node.address}:2480" for node in nodes} and all(node.etcd.health() for node in nodes)

    lab.wait(is_formed, BOUND, "three healthy members at the new ports")


# Names by the metadata service.


@in_a_cloud
def test_a_private_name_that_is_two_gives_its_first(lab):
    """DHCP options with two domain names: the metadata service gives "ip-….internal other.example", and EC2 may, too."""
    lab.env["ETCD_MEMBER_TYPE"] = "host"
    nodes = launch(lab, 3, size=3)
    names = [node.instance.private_dns for node in nodes]

    def lengthen(call, root) -> None:
        for shown in root.iter():
            if shown.text in names:
                shown.text += " other.example"

    for node in nodes:
        node.imds.meta_data["local-hostname"] += " other.example"
        node.front.add(edited(lengthen))
    start(*nodes)

    def is_formed() -> bool:
        for node in nodes:
            assert node.runs(), f"it ended: {node.log_tail()}"
        urls = sorted(url for member in nodes[0].etcd.members() for url in member.peer_urls)
        return urls == sorted(f"http://{name}:2380" for name in names) and all(node.etcd.health() for node in nodes)

    lab.wait(is_formed, BOUND, "three healthy members by their first names")


# A stranger's word.


def tell(node, call: dict) -> int:
    """The status of the answer to a call of the founding, as anybody can send it who reaches the peer port."""
    envelope = json.dumps({"from": "i-0aaaaaaaaaaaaaaa1", "call": call}).encode()
    return node.etcd.request("POST", "/muster/v1/call", PEER_PORT, envelope)[0]


def hello(node) -> dict:
    return json.loads(node.etcd.request("GET", "/muster/v1/hello", PEER_PORT)[1])


def member(instance: str, url: str, name: str | None = None) -> dict:
    return {"instance": instance, "name": name or instance, "peer_urls": [url]}


def the_nodes(nodes, **instead) -> list[dict]:
    """The list that these would agree on, but for the first of them."""
    listed = [member(node.instance.id, node.peer_url) for node in nodes]
    listed[0] |= instead
    return listed


LISTS = {
    "strangers": lambda nodes: [member(f"i-0aaaaaaaaaaaaaaa{place}", f"http://192.0.2.{place}:2380") for place in (1, 2, 3)],
    "our URL is another's": lambda nodes: the_nodes(nodes, peer_urls=[NOWHERE]),
    "our URL is none": lambda nodes: the_nodes(nodes, peer_urls=["192.0.2.1"]),
    "our name has a NUL": lambda nodes: the_nodes(nodes, name="db\0"),
    "our name is a list": lambda nodes: the_nodes(nodes, name=f"x={NOWHERE},db"),
    "nobody": lambda nodes: [],
    "only we": lambda nodes: the_nodes(nodes)[:1],
    "the others' URLs are nobody's": lambda nodes: the_nodes(nodes)[:1]
    + [member(node.instance.id, f"http://192.0.2.{place}:2380") for place, node in enumerate(nodes[1:], 2)],
}


@pytest.mark.parametrize("which", LISTS)
@pytest.mark.parametrize("charter", [False, True], ids=["bare", "with our charter"])
def test_a_list_that_a_stranger_tells_stops_no_founding(lab, which, charter):
    """A proposer of another cluster offers its list to an address that EC2 has handed on; or somebody means harm. A fresh node that
    recorded it spread it to all others, and they waited for good, or started what etcd refuses, at each boot anew."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")
    victim = nodes[0]
    start(victim)
    lab.wait(lambda: hello(victim)["charter"], BOUND, "a charter")
    told = {"list": {"members": LISTS[which](nodes), "token": "etcd-muster-stranger"}}
    if charter:
        ours = hello(victim)["charter"]
        told["charter"] = ours
        ballot = {"round": 7, "proposer": "i-0aaaaaaaaaaaaaaa1", "nonce": 7}
        tell(victim, {"Prepare": {"charter": ours, "ballot": ballot}})
        tell(victim, {"Accept": {"charter": ours, "ballot": ballot, "list": told["list"]}})
    tell(victim, {"Chosen": told})
    wait_looks(lab, victim, more=2)
    assert not victim.etcd_pids() and not said(victim, "start new: ")
    assert hello(victim)["chosen"] is None
    start(*nodes[1:])
    wait_formed(lab, *nodes)


@pytest.mark.parametrize("proposer", ["a stranger", "one of us"])
def test_a_promise_to_a_stranger_stops_no_founding(lab, proposer):
    """A ballot above which there is none, promised to whoever asked: nobody could ever propose again."""
    nodes = launch(lab, 3, size=3, MUSTER_BOOTSTRAP_GRACE="60s")
    victim = nodes[0]
    start(victim)
    lab.wait(lambda: hello(victim)["charter"], BOUND, "a charter")
    who = "i-0aaaaaaaaaaaaaaa1" if proposer == "a stranger" else nodes[1].instance.id
    ballot = {"round": 2**64 - 1, "proposer": who, "nonce": 7}
    tell(victim, {"Prepare": {"charter": hello(victim)["charter"], "ballot": ballot}})
    start(*nodes[1:])
    wait_formed(lab, *nodes)


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    with a_cloud(*given) as one_lab:
        globals()[name].inside(one_lab)
