"""Founding under faults, with real processes: every node in a network namespace, and between them whatever goes wrong.

Each round launches 2, 3 or 5 instances, starts their supervisors at random moments, and disturbs them while they found:
partitions, one-way cuts, resets, lost and late packets, kills, freezes, no way to EC2. When all is healed they must become
one cluster, and no etcd may ever have begun under another id. A round's plan follows from its seed.
Needs root, for the namespaces; nothing of it touches the machine's own network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from muster_tools import command
from muster_tools.demo.ending import Interrupted, Interrupts
from muster_tools.lab import install, netns

UNAVAILABLE = 69


def main() -> int:
    options = parse_options()
    trouble = why_not()
    if trouble:
        print(f"rounds: not on this machine: {trouble}", file=sys.stderr)
        return UNAVAILABLE
    if options.check:
        return 0
    install.go_on_in_the_venv(options.etcd)
    if not install.etcd_binaries(options.etcd).is_dir():
        print(f"rounds: etcd {options.etcd} can't be had on this machine", file=sys.stderr)
        return UNAVAILABLE
    interrupts = Interrupts()
    try:
        return run(options, command.executable(options), interrupts)
    except Interrupted as interruption:
        print("rounds: stopped, and everything it started is gone", file=sys.stderr)
        return interruption.exit_code


def why_not() -> str | None:
    """None once the machine has what is needed; Debian's packages are installed if only they are missing."""
    missing = netns.missing_packages()
    if missing:
        try:
            install.install_packages(missing)
        except install.InstallError as error:
            return str(error)
    return netns.why_not()


def run(options: argparse.Namespace, binary: Path, interrupts: Interrupts) -> int:
    # These need what was installed just now.
    from muster_tools.lab.ec2 import Ec2
    from muster_tools.rounds import plan, tally
    from muster_tools.rounds.round import World, play

    hub = netns.Hub().enter()
    outcomes = []
    try:
        with Ec2() as cloud:
            world = World(hub, cloud, binary, options.etcd, interrupts, options.keep)
            for number in range(options.rounds):
                outcome = play(plan.make(options.seed + number), world)
                outcomes.append(outcome)
                print(tally.line(number + 1, outcome), flush=True)
                if outcome.trouble:
                    print(f"  plan: {outcome.plan}\n  logs: {outcome.kept}")
                    print(f"  again: scripts/rounds --etcd {options.etcd} --seed {outcome.plan.seed} --rounds 1", flush=True)
    finally:
        if outcomes:
            print(f"\n{tally.figures(outcomes)}", flush=True)
    return 1 if any(outcome.trouble for outcome in outcomes) else 0


def parse_options() -> argparse.Namespace:
    parser = command.parser("rounds", __doc__)
    parser.add_argument("--rounds", type=command.positive, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next; default: %(default)s")
    command.add_etcd(parser)
    parser.add_argument("--keep", action="store_true", help="keep the logs and data of all rounds, not only of failed ones")
    parser.add_argument("--check", action="store_true", help="only say whether this machine can run them")
    command.add_binary(parser)
    return parser.parse_args()

