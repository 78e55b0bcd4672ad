"""What etcd makes of members and of data that no member list, health or hash shows, and the next release stumbles over."""

import urllib.parse

import pytest
from fleet import (
    BOUND,
    command,
    etcd_pid,
    launch,
    leader_of,
    mark,
    member_ids,
    put_etcd,
    remove_member,
    said,
    start,
    stop,
    tree,
    wait_formed,
    wait_looks,
    wait_said,
)
from muster_tools.lab.etcd import EtcdError
from test_status import wait_readiness
from test_upgrade import form_on, roll, wait_ready_for



def add_learner_first_in_rank(lab, at, url: str) -> str:
    """Its id is the lowest, so that whoever goes through the list comes to it first; etcd makes ids of the time as well."""

    def add() -> str | None:
        try:
            added = at.etcd.post("/v3/cluster/member/add", {"peerURLs": [url], "isLearner": True})["member"]["ID"]
        except EtcdError:  # it refuses until its peers have been connected for five seconds
            return None
        new = format(int(added), "x")
        if all(int(added) < int(other, 16) for other in member_ids(at).values() if other != new):
            return new
        remove_member(lab, at, new)
        return None

    return lab.wait(add, 3 * BOUND, "a learner with the lowest id")


def test_a_voter_on_paper_is_said_never_ready_and_never_leads(lab):
    """etcd 3.5.30 makes a voter on paper of a learner that is updated. It reports itself healthy, and can't vote.

    A hand-over to it times out: a stop of the leader would leave the cluster without one until the next election.
    """
    nodes = form_on(lab, "3.5.30", 3)
    paper = lab.add_node(env={"MUSTER_CLUSTER_SIZE": "4"})
    put_etcd(paper, "3.5.30")
    new = add_learner_first_in_rank(lab, nodes[0], paper.peer_url)
    others = ",".join(f"{m.name}={m.peer_urls[0]}" for m in nodes[0].etcd.members() if m.name)
    paper._etcd_binary = nodes[0].home / "bin" / "etcd"
    paper.start_plain_etcd(
        [
            f"--name={paper.instance.id}",
            f"--initial-cluster={others},{paper.instance.id}={paper.peer_url}",
            "--initial-cluster-state=existing",
            *(f"--{side}-urls={paper.peer_url}" for side in ("listen-peer", "initial-advertise-peer")),
            *(f"--{side}-urls={paper.client_url}" for side in ("listen-client", "advertise-client")),
        ]
    )
    lab.wait(paper.etcd.health, BOUND, "the learner")
    nodes[0].etcd.post("/v3/cluster/member/update", {"ID": str(int(new, 16)), "peerURLs": [paper.peer_url]})
    lab.wait(lambda: all(not m.learner for m in nodes[0].etcd.members()), BOUND, "a voter on paper")
    assert paper.etcd.health() and paper.etcd.metric("etcd_server_is_learner") == 1
    # From here on the supervisor runs it, with the data that is there.
    assert stop(paper) == -15
    start(paper)
    line = wait_said(lab, paper, f"member {new} is listed as a voter, but it is a learner to raft")
    assert f"etcdctl member remove {new}" in line
    assert paper.etcd.health()
    wait_readiness(lab, paper, 503, "is a learner to raft")
    leader = leader_of(lab, *nodes)
    since = mark(leader)
    assert stop(leader) == 0
    assert said(leader, "leadership moved to member ", since=since) and not said(leader, f"leadership moved to member {new}")
    start(leader)
    lab.wait(lambda: all(node.etcd.health() for node in nodes), BOUND, "the leader of before")
    # The way out that the line names.
    remove_member(lab, nodes[0], new)
    wait_formed(lab, *nodes, paper)
    wait_readiness(lab, paper, 200, "is healthy and votes")
    assert member_ids(nodes[0])[paper.peer_url] != new
    nodes[0].etcd.put("key", "value")
    assert paper.etcd.get("key") == "value"


def test_nobody_joins_beside_a_member_of_3_3(lab):
    """3.3 does not survive a learner in its cluster, whichever member adds it."""
    nodes = form_on_each(lab, ["3.3.25", "3.3.25", "3.4.23"])
    old = nodes[1]
    pid = etcd_pid(old)
    lab.terminate(nodes.pop(0))
    late = lab.add_node()
    put_etcd(late, "3.4.23")
    start(late)
    # The others remove the dead one; there is room, and a 3.4 that could be asked.
    lab.wait(lambda: len(nodes[-1].etcd.members()) == 2, BOUND, "a free place")
    wait_said(lab, late, "hold: a member of the cluster runs etcd 3.3, which has no learners")
    wait_looks(lab, late)
    assert etcd_pid(old) == pid and late.peer_url not in member_ids(nodes[-1])
    put_etcd(old, "3.4.23")
    assert stop(old) == 0
    start(old)
    wait_formed(lab, *nodes, late)


def form_on_each(lab, releases: list[str]):
    nodes = launch(lab, len(releases), size=len(releases), MUSTER_REMOVE_INTERVAL="500ms")
    for node, release in zip(nodes, releases):
        put_etcd(node, release)
    start(*nodes)
    voters = lambda: all(node.etcd.get("key") is None for node in nodes if node.etcd.release() >= (3, 4))
    lab.wait(lambda: voters() and len(nodes[-1].etcd.members()) == len(nodes), BOUND, "a cluster")
    lab.wait(lambda: nodes[-1].etcd.peer_version()["etcdcluster"].startswith("3.3."), BOUND, "its version")
    return nodes


def v2_key(node, method: str, key: str, **fields: str) -> None:
    body = urllib.parse.urlencode(fields).encode()
    node.etcd.headers["Content-Type"] = "application/x-www-form-urlencoded"
    status, answer = node.etcd.request(method, f"/v2/keys/{key}", node.etcd.client_port, body)
    del node.etcd.headers["Content-Type"]
    assert status in (200, 201), answer


def test_keys_of_the_v2_api_hold_before_3_6_and_go_by_3_5(lab):
    """3.6 ends with "illegal v2store content" over a raft snapshot that has one, again and again."""
    (node,) = form_on(lab, "3.5.33", 1, ETCD_ENABLE_V2="true")
    v2_key(node, "PUT", "mine", value="1")
    node.etcd.put("key", "value")
    check = lambda: command(lab, node, "upgrade", "--check", "3.6.16")
    assert "the raft log here has records of v2 keys" in check().stdout

    def restart(v2: bool) -> None:
        assert stop(node) == 0
        node.env.pop("ETCD_ENABLE_V2", None)
        node.env.update({"ETCD_ENABLE_V2": "true"} if v2 else {})
        start(node)

    since = mark(node)
    restart(v2=True)
    wait_said(lab, node, "is healthy and votes", since=since)
    assert not said(node, "raft snapshot", since=since), "each v2 request would write such a record again"
    # Without that setting, a raft snapshot is written at the start, because 3.6 can't apply the log: the key is in it.
    restart(v2=False)
    lab.wait(lambda: "the data here has keys of the v2 API" in check().stdout, BOUND, "a check that names v2 keys")
    assert check().returncode == 1
    assert stop(node) == 0
    before = tree(node.data / "member", node.wal)
    put_etcd(node, "3.6.16")
    start(node)
    line = wait_said(lab, node, "hold: the data here has keys of the v2 API, which etcd 3.6.16 refuses")
    assert "ETCD_ENABLE_V2=true" in line
    wait_looks(lab, node)
    assert not node.etcd_pids() and tree(node.data / "member", node.wal) == before
    # The way out that it names.
    put_etcd(node, "3.5.33")
    restart(v2=True)
    wait_formed(lab, node)
    v2_key(node, "DELETE", "mine")
    restart(v2=False)
    wait_ready_for(lab, [node], "3.6.16")
    roll(lab, [node], "3.6.16")
    assert node.etcd.get("key") == "value"


@pytest.mark.parametrize("to", ["3.6.16"])
def test_after_a_step_of_the_clusters_version_one_member_compares_all(lab, to):
    nodes = form_on(lab, "3.5.33", 3)
    nodes[0].etcd.put("key", "value")
    wait_ready_for(lab, nodes, to)
    since = {node.address: mark(node) for node in nodes}
    roll(lab, nodes, to)
    compared = lambda node: said(node, "after the step to etcd 3.6 all 3 voters hold the same data", since=since[node.address])
    first = min(nodes, key=lambda node: int(node.etcd.member_id(), 16))
    lab.wait(lambda: compared(first), 3 * BOUND, "a comparison")
    assert not any(compared(node) for node in nodes if node is not first)
