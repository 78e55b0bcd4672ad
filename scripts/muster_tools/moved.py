"""The volume of a terminated member on a new instance: from its start until the cluster is whole again, with this executable and with
an older one, in turn in one run.

    scripts/moved --beside OLD_ETCD_MUSTER              # etcd 3.5.1, 11 pairs; some four minutes
    scripts/moved --beside OLD_ETCD_MUSTER --etcd 3.6.16 --pairs 21
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from muster_tools import command
from muster_tools.bench.measure import all_healthy_voters, must, pairs
from muster_tools.lab import install


def main() -> int:
    parser = command.parser("moved", __doc__)
    command.add_beside(parser, required=True)
    command.add_etcd(parser)
    parser.add_argument("--pairs", type=int, default=11, help="default: %(default)s")
    command.add_binary(parser)
    options = parser.parse_args()
    install.go_on_in_the_venv(options.etcd)
    binary = command.executable(options)

    from muster_tools.lab.ec2 import Ec2

    with Ec2() as cloud:
        ours, older = pairs(
            options.pairs, lambda: moved(cloud, options.etcd, binary), lambda: moved(cloud, options.etcd, options.beside)
        )
    ratios = sorted(new / old for new, old in zip(ours, older))
    print(f"the volume of a terminated member on a new instance, etcd {options.etcd}, {options.pairs} pairs, seconds to three healthy voters:")
    print(f"this one {statistics.median(ours):.3f}, the older one {statistics.median(older):.3f}")
    print(f"ratio of pairs: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    return 0


def moved(cloud, etcd: str, binary: Path) -> float:
    from muster_tools.lab.node import Lab

    with Lab(etcd=etcd, muster=binary, shared_ec2=cloud, env={"MUSTER_CLUSTER_SIZE": "3"}) as lab:
        nodes = [lab.add_node() for _ in range(3)]
        for node in nodes:
            node.start()
        must(lambda: all_healthy_voters(nodes), "three voters")
        old = next(node for node in nodes if not node.etcd.is_leader())
        rest = [node for node in nodes if node is not old]
        old.power_off()
        disk = old.snapshot()
        lab.terminate(old)
        new = lab.add_node()
        new.restore(disk)
        began = time.monotonic()
        new.start()
        must(lambda: all_healthy_voters([*rest, new]), "the member on its new instance")
        return time.monotonic() - began
