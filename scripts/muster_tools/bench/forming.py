"""Forming: until all are healthy voters, the same etcds every time; from the first program's start, or where all but one wait."""

from __future__ import annotations

import time

from muster_tools.bench import peers
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import all_healthy_voters, must, pairs, poll, progress
from muster_tools.bench.peers import BOOTSTRAPPERS, Options

AT_ONCE_RATIO, ONE_BY_ONE_RATIO = 1.0, 1.5
HAND_PAIRS_FOR_EACH = 3  # of the others: on both sides raft's random timeouts are most of it
SCRIPT_BOUND_SECONDS = 60  # for a script to form a cluster; it has failed then
GIVEN_UP_AFTER = 4  # failures without one success
GROUP = "etcd"
TOGETHER = "all started together"
SCRIPT_ACTIONS = (
    "ec2:DescribeInstances",
    "ec2:DescribeTags",
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeAutoScalingGroups",
)
SCRIPTS = {"seed.sh": "the seed's algorithm, in bash", "group.sh": "a bash bootstrapper by Auto Scaling group"}


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.ec2 import NODE_ACTIONS, Ec2

    peers.need("jq", "curl")
    aws = peers.awscli()
    rows: list[Row] = []
    with Ec2() as cloud:
        for size in (3, 5):
            progress(f"forming {size}, by hand")
            rows += _against_hands(cloud, size, options)
            for script, name in SCRIPTS.items():
                progress(f"forming {size}, {name}")
                rows.append(_against_script(cloud, size, script, name, aws, options, NODE_ACTIONS))
    return rows


def _against_hands(cloud, size: int, options: Options) -> list[Row]:
    together, last, at_once, by_one = pairs(
        HAND_PAIRS_FOR_EACH * options.pairs,
        lambda: by_supervisors(cloud, size, options, together=True),
        lambda: by_supervisors(cloud, size, options),
        lambda: _by_hand(cloud, size, options, one_by_one=False),
        lambda: _by_hand(cloud, size, options, one_by_one=True),
    )
    hands = (
        ("at-once", "by hand with a static list, all at once", at_once, AT_ONCE_RATIO),
        ("one-by-one", "by hand, one by one by peer port (the limit)", by_one, ONE_BY_ONE_RATIO),
    )
    starts = (
        ("", TOGETHER, together, ""),
        ("last-", f"{size - 1} wait for the last", last, "from the last one's start; the hand's etcds start all after it began, too"),
    )
    return [
        Row(f"forming/{start}{key}-{size}", f"forming {size}: {title}", "s", hand, ours, theirs, Bound(ratio=most), note=note, headline=True)
        for start, title, ours, note in starts
        for key, hand, theirs, most in hands
    ]


def by_supervisors(cloud, size: int, options: Options, together: bool = False) -> float:
    """Seconds. The last is started when the others have looked and wait for it, or all are `together`."""
    from muster_tools.lab.node import Lab

    with Lab(etcd=options.etcd, muster=options.binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": str(size)}) as lab:
        nodes = [lab.add_node() for _ in range(size)]
        if not together:
            for node in nodes[:-1]:
                node.start()
            must(lambda: all("hold: " in n.log_text() for n in nodes[:-1]), "the others waiting")
        began = time.monotonic()
        for node in nodes if together else nodes[-1:]:
            node.start()
        must(lambda: all_healthy_voters(nodes), f"{size} healthy voters")
        return time.monotonic() - began


def _by_hand(cloud, size: int, options: Options, one_by_one: bool) -> float:
    from muster_tools.lab.node import Lab, static_list_arguments

    with Lab(etcd=options.etcd, shared_ec2=cloud) as lab:
        nodes = [lab.add_node(launch=False) for _ in range(size)]
        began = time.monotonic()
        for node in nodes:
            node.start_plain_etcd(static_list_arguments(node, nodes))
            if one_by_one:
                must(node.etcd.peer_version, "a peer port")
        must(lambda: all_healthy_voters(nodes), f"{size} healthy voters by hand")
        return time.monotonic() - began


def _against_script(cloud, size: int, script: str, name: str, aws, options: Options, node_actions) -> Row:
    """A script that fails to form is counted, and its pair has no ratio."""
    ours, theirs, failed = [], [], 0
    for round_ in range(options.pairs):
        ours_first = round_ % 2 == 0
        mine = by_supervisors(cloud, size, options, together=True) if ours_first else None
        took = _by_script(cloud, size, script, aws, options, node_actions)
        mine = mine or by_supervisors(cloud, size, options, together=True)
        if took is None:
            failed += 1
            if failed == GIVEN_UP_AFTER and not theirs:
                break
            continue
        ours.append(mine)
        theirs.append(took)
    if not theirs:
        ours = [mine]
    key, title = f"forming/{script.partition('.')[0]}-{size}", f"forming {size}: {TOGETHER}"
    note = (
        f"a script has failed when it hasn't formed a cluster within {SCRIPT_BOUND_SECONDS} s; ours always had. All nodes' calls of awscli, "
        "0.6 s of a core each, share this machine's cores: on machines of their own the scripts would be faster"
    )
    return Row(key, title, "s", name, ours, theirs, failed=failed, note=note, headline=size == 3)


def _by_script(cloud, size: int, script: str, aws, options: Options, node_actions) -> float | None:
    """Seconds, or None. Like a unit with Restart=always, each node's script is run again a second after it has ended."""
    from muster_tools.lab.node import Lab

    again = f'while :; do /bin/bash "{BOOTSTRAPPERS / script}"; sleep 1; done'
    with Lab(etcd=options.etcd, shared_ec2=cloud) as lab:
        nodes = [lab.add_node() for _ in range(size)]
        cloud.set_role_actions(*node_actions, *SCRIPT_ACTIONS)
        _group(cloud, nodes)
        began = time.monotonic()
        for node in nodes:
            more = {"AWS_ENDPOINT_URL_AUTO_SCALING": node.front.url, "AWS_PAGER": "", "HOME": str(node.directory), "AWS": str(aws)}
            node.start_program(["/bin/bash", "-c", again], {**node.environment(), **more})
        formed = poll(lambda: all_healthy_voters(nodes), SCRIPT_BOUND_SECONDS)
        return time.monotonic() - began if formed else None


def _group(cloud, nodes) -> None:
    """The nodes' Auto Scaling group: made empty, since its own launches would choose their addresses."""
    group = cloud.client("autoscaling")
    template = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.micro"}
    cloud.client("ec2").create_launch_template(LaunchTemplateName=GROUP, LaunchTemplateData=template)
    group.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        LaunchTemplate={"LaunchTemplateName": GROUP, "Version": "$Latest"},
        MinSize=0,
        MaxSize=10,
        DesiredCapacity=0,
        AvailabilityZones=[nodes[0].instance.az],
    )
    group.attach_instances(AutoScalingGroupName=GROUP, InstanceIds=[node.instance.id for node in nodes])
