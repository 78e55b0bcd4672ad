"""`adopt --check`: a cluster that was set up by hand is taken over host by host, with the settings that the check prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pytest
from byhand import (
    Writer,
    adopt,
    as_flags,
    as_json,
    client_url,
    move_ports,
    obstacles,
    peer_url,
    printed,
    settings,
    start_by_config_file,
    start_by_env_file,
    start_by_flags,
    supervise,
    until_healthy,
)
from fleet import BOUND, etcd_pid, member_ids, put_etcd, remove_member, start, stop, tree, wait_formed, wait_looks, wait_said
from muster_tools.lab.etcd import EtcdClient
from muster_tools.lab.node import Lab, Node
from muster_tools.lab.pki import Ca
from muster_tools.lab.security import FILES, PLAIN, Security, trusting_context
from test_roster import a_lab, in_a_hub

NAMES = ("alpha", "beta", "gamma")
USAGE = 64


def by_hand(lab: Lab, security: Security | None = None, ports: tuple[int, int] | None = None) -> dict[str, Node]:
    """Three instances on which nothing runs yet, under names that are not theirs."""
    if security is not None:
        lab.security = security
    nodes = [lab.add_node() for _ in NAMES]
    for node in nodes:
        if ports is not None:
            move_ports(node, *ports)
    return dict(zip(NAMES, nodes))


@pytest.mark.core
@pytest.mark.parametrize("security", [PLAIN, FILES])
def test_a_cluster_by_hand_is_taken_over_host_by_host(lab, security):
    """Names, ports, WAL and certificates are what somebody once chose; clients write all the while."""
    nodes = by_hand(lab, Security(client=security, peer=security), None if security == PLAIN else (4001, 7001))
    listed = list(nodes.values())
    flags = {name: settings(node, name, nodes) for name, node in nodes.items()}
    first, second, third = listed
    start_by_flags(first, flags["alpha"])
    env_file = start_by_env_file(second, flags["beta"])
    # Of etcd's own file only flat lines are read, and certificates are in nested ones.
    begin = start_by_config_file if security == PLAIN else start_by_flags
    begin(third, flags["gamma"])
    until_healthy(lab, *listed)
    cluster, members = first.etcd.cluster_id(), member_ids(first)
    asked = {
        first: ["--pid", str(first.process.pid)],
        second: ["--env-file", str(env_file)],
        third: ["--pid", str(third.process.pid)],
    }
    if security == FILES:
        unnamed = obstacles(adopt(lab, first, "--data-dir", flags["alpha"]["data-dir"]))
        assert any("ETCD_PEER_CERT_FILE=… in --env-file" in line for line in unnamed), unnamed
    told: dict[Node, dict[str, str]] = {}
    with Writer(*listed) as writer:
        writer.watched = listed
        for node, arguments in asked.items():
            writer.wait_more(lab)
            before = tree(node.data).keys()
            done = adopt(lab, node, *arguments, code=0)
            assert "# go  " in done.stdout and tree(node.data).keys() == before
            told[node] = printed(done)
            stop(node)
            supervise(lab, node, told[node])
            wait_said(lab, node, "is healthy and votes")
            until_healthy(lab, *listed)
        writer.wait_more(lab)
    assert writer.worst <= 1, f"{writer.worst} members were down at once"
    for node in listed:
        assert etcd_pid(node) and not writer.lost(node)
        assert node.etcd.cluster_id() == cluster and member_ids(node) == members
        assert not list(node.data.rglob("quarantine-*"))
    # From now on it is a cluster like any other: one that comes back when all hosts were down at once.
    for node in listed:
        node.power_off()
    for node in listed:
        supervise(lab, node, told[node])
    until_healthy(lab, *listed)
    assert first.etcd.cluster_id() == cluster and not writer.lost(first)


def test_a_new_instance_joins_a_cluster_that_nobody_supervises(lab):
    """The other way: new instances with the old ones' tag join what is there, and the old members are removed one by one by hand."""
    nodes = by_hand(lab)
    old = list(nodes.values())
    for name, node in nodes.items():
        start_by_flags(node, settings(node, name, nodes))
    until_healthy(lab, *old)
    cluster, members = old[0].etcd.cluster_id(), member_ids(old[0])
    new: list[Node] = []
    with Writer(*old) as writer:
        for place, leaving in enumerate(old):
            writer.wait_more(lab)
            node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "4"})
            start(node)
            wait_said(lab, node, "is healthy and votes")
            new.append(node)
            writer.nodes.append(node)
            writer.nodes.remove(leaving)
            remove_member(lab, node, members[peer_url(leaving)])
            assert leaving.wait_exit(BOUND) is not None
            staying = [*old[place + 1 :], *new]
            until_healthy(lab, *staying)
            writer.wait_more(lab)
    wait_formed(lab, *new)
    assert {node.etcd.cluster_id() for node in new} == {cluster}
    assert not writer.lost(new[0])
    # Nothing brings one of them back by itself: their machines may go on running.
    assert all(not node.runs() for node in old)


@pytest.mark.core
def test_a_new_fleet_joins_an_old_one_that_has_no_tag_and_leaves_it(lab):
    """MUSTER_JOIN: three new instances at once, beside three that only their client URLs tell of; clients write all the while."""
    nodes = {name: lab.add_node(tags={"Name": name}) for name in NAMES}
    old = list(nodes.values())
    for name, node in nodes.items():
        start_by_flags(node, settings(node, name, nodes))
    until_healthy(lab, *old)
    cluster, members = old[0].etcd.cluster_id(), member_ids(old[0])
    joins = {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_JOIN": ",".join(client_url(node) for node in old)}
    with Writer(*old) as writer:
        new = [lab.add_node(env=joins) for _ in NAMES]
        start(*new)
        for node in new:
            wait_said(lab, node, "is healthy and votes")
        writer.nodes.extend(new)
        (spare,) = more = [lab.add_node(env=joins)]
        start(*more)
        wait_said(lab, spare, "hold: ", "spare: ", "has all its 3 members")
        for place, leaving in enumerate(old):
            writer.wait_more(lab)
            writer.nodes.remove(leaving)
            remove_member(lab, new[0], members[peer_url(leaving)])
            assert leaving.wait_exit(BOUND) is not None
            until_healthy(lab, *old[place + 1 :], *new)
        writer.wait_more(lab)
        # The setting is still there: who replaces one of the new fleet joins its own cluster.
        writer.nodes.remove(new[2])
        lab.terminate(new[2])
        wait_said(lab, spare, "is healthy and votes")
        writer.wait_more(lab)
    wait_formed(lab, new[0], new[1], spare)
    assert {node.etcd.cluster_id() for node in (new[0], new[1], spare)} == {cluster}
    assert not writer.lost(spare)


def test_a_fleet_that_is_to_join_an_old_one_founds_nothing_while_that_is_away(lab):
    away = lab.add_node(tags={"Name": "old"})
    nodes = [lab.add_node(env={"MUSTER_CLUSTER_SIZE": "3", "MUSTER_JOIN": client_url(away)}) for _ in NAMES]
    start(*nodes)
    for node in nodes:
        wait_said(lab, node, "hold: ", "MUSTER_JOIN is set", f"{client_url(away)}: ", "connection refused")
    wait_looks(lab, *nodes)
    assert not any(node.etcd_pids() for node in nodes)
    # One of them without the setting gets no vote of the others.
    nodes[0].env.pop("MUSTER_JOIN")
    nodes[0].power_off()
    start(nodes[0])
    wait_said(lab, nodes[0], "hold: ", "waiting for it")
    wait_looks(lab, *nodes)
    assert not any(node.etcd_pids() for node in nodes)


def test_what_the_check_will_not_call_a_go(lab):
    """Each with the value and the way out, and nothing is changed by any."""
    nodes = by_hand(lab)
    first, second, third = nodes.values()
    flags = {name: settings(node, name, nodes) for name, node in nodes.items()}
    env_file = start_by_env_file(first, flags["alpha"])
    start_by_flags(second, flags["beta"])
    start_by_flags(third, flags["gamma"])
    until_healthy(lab, *nodes.values())
    ids = member_ids(first)
    named = ("--env-file", str(env_file))

    # Two etcds, in the lab even more: none is guessed.
    several = adopt(lab, first, code=USAGE)
    assert "several etcds run here: processes" in several.stderr and "--pid PID" in several.stderr
    assert "adopt --check" in refused_without_check(lab, first)

    # The data of another member than the one that answers.
    line, *elsewhere = obstacles(adopt(lab, first, *named, "--data-dir", flags["beta"]["data-dir"]))
    assert any(f"the member is listed at {peer_url(second)}" in line for line in elsewhere), elsewhere
    assert f"the data is member {ids[peer_url(second)]}'s" in line and f"but member {ids[peer_url(first)]} of" in line

    # A WAL that can't be read, a WAL that is not where it is said to be, no data at all.
    copy = first.directory / "copy"
    shutil.copytree(flags["alpha"]["data-dir"], copy)
    for wal in (copy / "member" / "wal").glob("*.wal"):
        wal.write_bytes(bytes(64) + wal.read_bytes()[64:])
    (line,) = obstacles(adopt(lab, first, *named, "--data-dir", str(copy)))
    assert "whose data this is can't be read from its WAL" in line and "let the member be replaced" in line
    (line,) = obstacles(adopt(lab, first, *named, "--wal-dir", str(first.wal)))
    assert "a WAL is in" in line and "--wal-dir" in line
    (line,) = obstacles(adopt(lab, first, *named, "--data-dir", str(first.wal)))
    assert "has no data of an etcd" in line

    # A socket of its own kind, and a value that only a shell knows.
    for old, new, why in (
        (f'ETCD_LISTEN_CLIENT_URLS="{client_url(first)}"', "ETCD_LISTEN_CLIENT_URLS=unix:///run/etcd.sock", "by http and https only"),
        (f'ETCD_NAME="{flags["alpha"]["name"]}"', "ETCD_NAME=$(hostname)", None),
    ):
        odd = first.directory / "odd.env"
        odd.write_text(env_file.read_text().replace(old, new))
        done = adopt(lab, first, "--env-file", str(odd))
        assert why in done.stdout if why else "one that a shell computes" in done.stderr and done.returncode == USAGE

    # A member's host that the roster doesn't have.
    lab.ec2.set_tags(third.instance.id, {"etcd": None})
    (line,) = obstacles(adopt(lab, first, *named))
    assert f"member {ids[peer_url(third)]} gamma at {peer_url(third)} is no instance of etcd=1" in line

    # Without the third, the first may not be stopped; the check sees that by asking.
    third.power_off()
    lines = obstacles(adopt(lab, first, *named))
    assert any("1 other voters are healthy, and without this one the cluster needs 2" in line for line in lines)


def refused_without_check(lab: Lab, node: Node) -> str:
    done = subprocess.run([str(lab.muster), "adopt"], env=node.environment(), capture_output=True, text=True)
    assert done.returncode == USAGE and not done.stdout
    return done.stderr


def test_a_single_member_at_an_address_that_is_not_the_hosts(lab):
    """etcd's own defaults: no other host could ever reach it. The etcdctl line in the answer is what mends it."""
    node = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "1"})
    flags = settings(node, "default", {"default": node})
    flags |= {"initial-advertise-peer-urls": "http://localhost:2380", "initial-cluster": "default=http://localhost:2380"}
    start_by_flags(node, flags)
    until_healthy(lab, node)
    (line,) = obstacles(adopt(lab, node, "--pid", str(node.process.pid)))
    member = node.etcd.member_id()
    assert line.endswith(f"etcdctl member update {member} --peer-urls=http://{node.address}:2380")
    node.etcd.post("/v3/cluster/member/update", {"ID": str(int(member, 16)), "peerURLs": [peer_url(node)]})
    node.etcd.put("key", "value")
    told = printed(adopt(lab, node, "--pid", str(node.process.pid), code=0))
    # Nobody else could show that it is at home: that it ran a moment ago is the proof, for this once.
    assert told["MUSTER_ADOPT"] == member
    stop(node)
    (line,) = obstacles(adopt(lab, node, "--data-dir", flags["data-dir"]))
    assert f"add MUSTER_ADOPT={member} yourself" in line
    supervise(lab, node, told)
    until_healthy(lab, node)
    assert node.etcd.get("key") == "value" and node.etcd.member_id() == member
    (line,) = obstacles(adopt(lab, node, "--data-dir", flags["data-dir"]))
    assert "an etcd-muster has run with this data already" in line


def test_an_etcd_without_learners_is_no_start_for_a_cluster_that_is_to_grow(lab):
    node = lab.add_node()
    put_etcd(node, "3.3.25")
    flags = settings(node, "old", {"old": node})
    start_by_flags(node, flags)
    until_healthy(lab, node)
    named = ("--pid", str(node.process.pid))
    (line,) = obstacles(adopt(lab, node, *named, MUSTER_CLUSTER_SIZE="3"))
    assert line == "etcd 3.3.25 has no learners, so no member can join or be replaced, but 3 are wanted; upgrade to 3.4 first"
    done = adopt(lab, node, *named, code=0, MUSTER_CLUSTER_SIZE="1")
    assert "# note     etcd 3.3.25 has no learners" in done.stdout
    assert as_json(adopt(lab, node, *named, "--json", code=0, MUSTER_CLUSTER_SIZE="1"))["go"] is True


# The layouts of others.


def test_the_layout_of_etcd_cloud_operator(lab):
    """Its etcd is a part of its process: named by instance id, automatic certificates among peers, clients told a balancer's name.

    (Quentin-M/etcd-cloud-operator b5e11bf: pkg/etcd/server.go, startServer.)
    """
    lab.security = Security(peer="auto")
    nodes = [lab.add_node() for _ in range(3)]
    listed = {node.instance.id: node for node in nodes}
    files = {}
    for node in nodes:
        flags = settings(node, node.instance.id, listed)
        flags |= {"advertise-client-urls": "http://etcd.example.com:2379", "initial-cluster-token": "etcd-cluster"}
        flags |= {"listen-metrics-urls": f"http://{node.address}:2381", "metrics": "extensive", "quota-backend-bytes": "2147483648"}
        files[node] = start_by_env_file(node, flags)
    until_healthy(lab, *nodes)
    cluster, members = nodes[0].etcd.cluster_id(), member_ids(nodes[0])
    for node in nodes:
        done = adopt(lab, node, "--env-file", str(files[node]), code=0)
        told = printed(done)
        assert "ETCD_NAME" not in told and told["ETCD_PEER_AUTO_TLS"] == "true"
        assert "ETCD_ADVERTISE_CLIENT_URLS" not in told and "as a balancer's name" in done.stdout
        assert told["ED_WAL"] == f"{node.data}/etcd/member"
        stop(node)
        supervise(lab, node, told)
        wait_said(lab, node, "is healthy and votes")
        until_healthy(lab, *nodes)
    assert nodes[0].etcd.cluster_id() == cluster and member_ids(nodes[0]) == members
    assert {url for member in nodes[0].etcd.members() for url in member.client_urls} == {client_url(node) for node in nodes}


# What `kubeadm init` writes (kubernetes, cmd/kubeadm/app/phases/etcd/local.go).
MANIFEST = """apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://{address}:2379
  labels:
    component: etcd
    tier: control-plane
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
{flags}
    image: registry.k8s.io/etcd:3.6.16-0
    livenessProbe:
      httpGet:
        host: 127.0.0.1
        path: /livez
        port: probe-port
    volumeMounts:
    - mountPath: {data}
      name: etcd-data
  hostNetwork: true
  volumes:
  - hostPath:
      path: {data}
      type: DirectoryOrCreate
    name: etcd-data
"""


@in_a_hub
def test_the_layout_of_kubeadm(lab):
    """One static pod: the manifest is its only record. The API servers go on speaking to it at loopback, with their certificate."""
    node = lab.add_node(launch=False)
    node.env |= {"MUSTER_HOSTS": f"static:cp-1={node.address}", "MUSTER_CLUSTER_SIZE": "1"}
    pki, data = node.directory / "pki/etcd", node.directory / "var/lib/etcd"
    pki.mkdir(parents=True)
    ca = Ca("etcd-ca")
    (pki / "ca.crt").write_bytes(ca.cert_pem())
    for name in ("server", "peer"):
        ca.issue("localhost", "cp-1", node.address, "127.0.0.1", common_name="cp-1").write(pki / f"{name}.crt", pki / f"{name}.key")
    flags = {
        "advertise-client-urls": f"https://{node.address}:2379",
        "cert-file": f"{pki}/server.crt",
        "client-cert-auth": "true",
        "data-dir": str(data),
        "feature-gates": "InitialCorruptCheck=true",
        "initial-advertise-peer-urls": f"https://{node.address}:2380",
        "initial-cluster": f"cp-1=https://{node.address}:2380",
        "key-file": f"{pki}/server.key",
        "listen-client-urls": f"https://127.0.0.1:2379,https://{node.address}:2379",
        "listen-metrics-urls": "http://127.0.0.1:2381",
        "listen-peer-urls": f"https://{node.address}:2380",
        "name": "cp-1",
        "peer-cert-file": f"{pki}/peer.crt",
        "peer-client-cert-auth": "true",
        "peer-key-file": f"{pki}/peer.key",
        "peer-trusted-ca-file": f"{pki}/ca.crt",
        "snapshot-count": "10000",
        "trusted-ca-file": f"{pki}/ca.crt",
        "watch-progress-notify-interval": "5s",
    }
    manifest = node.directory / "etcd.yaml"
    told_flags = "\n".join(f"    - {flag}" for flag in as_flags(flags))
    manifest.write_text(MANIFEST.format(address=node.address, data=data, flags=told_flags))
    speak_as_the_api_server(node, ca)
    start_by_flags(node, flags)
    until_healthy(lab, node)
    node.etcd.put("/registry/a", "b")
    cluster = node.etcd.cluster_id()
    told = printed(adopt(lab, node, "--config-file", str(manifest), code=0))
    assert told["ED_DATA"] == str(data) and told["ED_WAL"] == f"{data}/member"
    assert told["ETCD_CERT_FILE"] == f"{pki}/server.crt" and told["ETCD_PEER_TRUSTED_CA_FILE"] == f"{pki}/ca.crt"
    assert told.keys().isdisjoint({"ETCD_NAME", "ETCD_INITIAL_CLUSTER", "ETCD_LISTEN_CLIENT_URLS", "ETCD_ADVERTISE_CLIENT_URLS"})
    stop(node)
    supervise(lab, node, {**told, "ED_HOME": str(node.home)})
    until_healthy(lab, node)
    assert node.etcd.get("/registry/a") == "b" and node.etcd.cluster_id() == cluster
    # A certificate that is good enough for etcd alone, and not for its supervisor, is said before anything is stopped.
    ca.issue("localhost", common_name="cp-1").write(pki / "peer.crt", pki / "peer.key")
    shutil.rmtree(data / "muster")
    (line,) = obstacles(adopt(lab, node, "--config-file", str(manifest)))
    assert f"{pki}/peer.crt" in line and node.address in line


def speak_as_the_api_server(node: Node, ca: Ca) -> None:
    tls = trusting_context(ca, ca.issue(common_name="kube-apiserver-etcd-client"))
    node.etcd = EtcdClient(node.address, client_tls=tls, peer_tls=tls)


if __name__ == "__main__":
    name, *where = sys.argv[1:]
    with a_lab(*where) as one_lab:
        globals()[name].inside(one_lab)
