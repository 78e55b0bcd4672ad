"""docs/dashboard.svg: the board of docs/dashboard.json, drawn from what a real Prometheus answers that watched a real cluster for a minute.

    scripts/board           # to target/dashboard.svg: nothing in docs changes
    scripts/board --write   # to docs/dashboard.svg

Three members form a cluster with TLS and snapshots at two places, of which one refuses them; a spare waits; a member's instance is terminated, and
the spare replaces it; the leader is restarted.
"""

from __future__ import annotations

import json
import sys
import time

from muster_tools import command
from muster_tools.lab import install
from muster_tools.repository import DOCS, target

BOARD, PICTURE = DOCS / "dashboard.json", "dashboard.svg"
JOB, BUCKET = "blue", "backups"
REFUSING = f"s3://{BUCKET}/copies"
BOUND = 120  # seconds; every wait ends with its condition
SPAN = 8  # seconds of writes between two events: for the picture alone
QUOTA_MIB = 64
SETTINGS = {
    "MUSTER_CLUSTER_SIZE": "3",
    "MUSTER_BOOTSTRAP_GRACE": "2s",
    "MUSTER_REMOVE_AFTER": "1s",
    "MUSTER_PROBE_TIMEOUT": "1s",
    "MUSTER_SNAPSHOTS": f"s3://{BUCKET}/etcd,{REFUSING}",
    "MUSTER_SNAPSHOT_EVERY": "10s",
    "ETCD_QUOTA_BACKEND_BYTES": str(QUOTA_MIB << 20),
}


def main() -> int:
    parser = command.parser("board", __doc__)
    command.add_etcd(parser, install.newest("3.6.", install.DEFAULT_CACHE))
    command.add_binary(parser)
    parser.add_argument("--write", action="store_true", help="put the picture into docs/")
    options = parser.parse_args()
    install.go_on_in_the_venv(options.etcd)
    if missing := [name for name in install.PROMETHEUS_PROGRAMS if install.prometheus(name) is None]:
        raise SystemExit(f"board: {', '.join(missing)} not installed: scripts/install-lab --with-prometheus")
    binary = command.executable(options)

    from muster_tools.board.picture import svg
    from muster_tools.lab.node import Lab
    from muster_tools.lab.security import FILES, Security

    board = json.loads(BOARD.read_text())
    with Lab(etcd=options.etcd, muster=binary, env=SETTINGS) as lab:
        lab.security = Security(client=FILES, peer=FILES)
        answers, begin, end = watched(lab, board)
    picture = (DOCS if options.write else target()) / PICTURE
    picture.write_text(svg(board, answers, begin, end))
    print(picture)
    return 0


def watched(lab, board: dict) -> tuple[dict[tuple[int, str], list[dict]], float, float]:
    """What each panel's expressions gave over the story; of those that are asked once, at its end."""
    from muster_tools.lab.ec2 import NODE_ACTIONS
    from muster_tools.lab.prometheus import Server, listen

    lab.ec2.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    lab.ec2.set_role_actions(*NODE_ACTIONS, "s3:GetObject", "s3:PutObject", "s3:ListBucket")
    nodes = [lab.add_node() for _ in range(3)]
    spare = lab.add_node(launch=False)
    listen(*nodes, spare)
    for node in nodes:
        refuse(node)
    folder = lab.directory / "prometheus"
    folder.mkdir()
    with Server(folder, nodes[0].address, JOB, [*nodes, spare]) as server:
        begin = time.time()
        story(lab, nodes, spare)
        end = time.time()
        answers = {}
        for panel in board["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$job", JOB)
                found = server.query(expression) if target.get("instant") else server.query_range(expression, begin, end)
                answers[panel["id"], target["refId"]] = found
    return answers, begin, end


def refuse(node) -> None:
    from muster_tools.lab.ec2_faults import refused

    denied = refused(403, "AccessDenied", "Access Denied")
    place = REFUSING.removeprefix("s3:/")
    unwritable = lambda call: call.request.method == "PUT" and call.request.target.startswith(place)
    node.front.add(lambda call, proceed: denied(call, proceed) if unwritable(call) else proceed())


def story(lab, nodes: list, spare) -> None:
    def formed(*members) -> None:
        def is_formed() -> bool:
            listed = {url for member in members[0].etcd.members() if not member.learner for url in member.peer_urls}
            return listed == {member.peer_url for member in members} and all(member.etcd.health() for member in members)

        lab.wait(is_formed, BOUND, f"a cluster of {len(members)} healthy voters")

    def write(node) -> None:
        """Steadily, for a while."""
        until, key = time.monotonic() + SPAN, 0
        while time.monotonic() < until:
            key += 1
            node.etcd.put(f"{node.address}/{key}", "v" * 20_000)
            time.sleep(0.02)

    tell("one of three waits")
    nodes[0].start()
    time.sleep(SPAN)
    tell("the others start")
    for node in nodes[1:]:
        node.start()
    formed(*nodes)
    write(nodes[0])
    tell("a spare waits")
    lab.launch(spare)
    spare.secure(lab.security)
    refuse(spare)
    spare.start()
    write(nodes[0])
    lost = next(node for node in nodes[1:] if not node.etcd.is_leader())
    tell("a member's instance is terminated")
    lab.terminate(lost)
    nodes = [node for node in nodes if node is not lost]
    formed(*nodes, spare)
    write(spare)
    leader = next(node for node in [*nodes, spare] if node.etcd.is_leader())
    tell("the leader is restarted")
    leader.kill(15)
    leader.wait_exit(BOUND)
    leader.start()
    formed(*nodes, spare)
    # Until the new leader has looked at the places, too.
    write(spare)
    write(spare)


def tell(line: str) -> None:
    print(f"board: {line}", file=sys.stderr, flush=True)
