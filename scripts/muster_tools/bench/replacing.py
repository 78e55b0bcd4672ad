"""Replacing: one of three is gone; from the new one's start until it is a healthy voter."""

from __future__ import annotations

import time

from muster_tools.bench.figures import Bound, Row, spread
from muster_tools.bench.measure import all_healthy_voters, must, pairs, progress
from muster_tools.bench.peers import Options

RATIO = 1.5
DWELL_SECONDS = 1  # a replacement boots for longer than the default dwell; here it starts when this one is over
CONNECTED_SECONDS = 6  # etcd refuses any add until its peers have been connected for five; a cluster that lost a node is older


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import Ec2

    progress("replacing one of three")
    with Ec2() as cloud:
        ours, by_hand = pairs(options.pairs, lambda: by_supervisor(cloud, options), lambda: _by_hand(cloud, options))
    whole, answers = zip(*ours)
    title = "replacing one of three: its start to healthy voter"
    other = "by hand: remove, add learner, start, promote (the limit)"
    note = "the hand that replaces knows who is gone and who lives: it asks neither the metadata service nor EC2"
    own = [took - theirs for took, theirs in ours]
    told = f"the emulator's answers took {spread(list(answers), 's')}, all of which is taken off, also where ours had other work meanwhile"
    return [
        Row("replacing/by-hand", title, "s", other, list(whole), by_hand, Bound(ratio=RATIO), note=note, headline=True),
        Row("replacing/own", f"{title}, less the time the metadata service and EC2 took to answer", "s", other, own, by_hand, note=told),
    ]


def by_supervisor(cloud, options: Options) -> tuple[float, float]:
    """All of it, and what of it the metadata service and EC2 took to answer, in seconds."""
    from muster_tools.lab.moments import covered
    from muster_tools.lab.node import Lab

    # By its former name: an older executable knows no other.
    env = {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_CLEAN_DWELL": str(DWELL_SECONDS)}
    with Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env=env) as lab:
        nodes = [lab.add_node() for _ in range(3)]
        for node in nodes:
            node.start()
        must(lambda: all_healthy_voters(nodes), "three voters")
        time.sleep(CONNECTED_SECONDS)
        dead, rest = _part_from_a_follower(nodes)
        lab.terminate(dead)
        new = lab.add_node()
        time.sleep(DWELL_SECONDS + 1)  # EC2's time of termination has whole seconds
        began = time.monotonic()
        new.start()
        must(lambda: all_healthy_voters([*rest, new]), "the replacement")
        took = time.monotonic() - began
        return took, covered([*new.imds.answered, *new.front.answered])


def _by_hand(cloud, options: Options) -> float:
    from muster_tools.lab.node import Lab, static_list_arguments

    with Lab(etcd=options.etcd, shared_ec2=cloud) as lab:
        nodes = [lab.add_node(launch=False) for _ in range(3)]
        for node in nodes:
            node.start_plain_etcd(static_list_arguments(node, nodes))
        must(lambda: all_healthy_voters(nodes), "three voters by hand")
        time.sleep(CONNECTED_SECONDS)
        dead, rest = _part_from_a_follower(nodes)
        dead_id = next(m.id for m in rest[0].etcd.members() if m.peer_urls == (dead.peer_url,))
        dead.power_off()
        new = lab.add_node(launch=False)
        time.sleep(DWELL_SECONDS + 1)
        began = time.monotonic()
        at = rest[0].etcd
        at.post("/v3/cluster/member/remove", {"ID": str(int(dead_id, 16))})
        added = at.post("/v3/cluster/member/add", {"peerURLs": [new.peer_url], "isLearner": True})["member"]["ID"]
        arguments = static_list_arguments(new, [*rest, new])
        new.start_plain_etcd([*(a for a in arguments if "-state=" not in a), "--initial-cluster-state=existing"])
        must(lambda: at.post("/v3/cluster/member/promote", {"ID": added}), "a promotion")
        must(lambda: all_healthy_voters([*rest, new]), "the replacement by hand")
        return time.monotonic() - began


def _part_from_a_follower(nodes):
    dead = next(node for node in nodes if not node.etcd.is_leader())
    return dead, [node for node in nodes if node is not dead]
