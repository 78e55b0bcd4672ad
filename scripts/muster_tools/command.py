"""What the programs' command lines have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from muster_tools import repository
from muster_tools.lab import install


def parser(program: str, text: str) -> argparse.ArgumentParser:
    """`text` is the module's docstring: its first paragraph says what the program does, the rest stands below the options."""
    summary, _, more = text.partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"scripts/{program}", description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_etcd(options: argparse.ArgumentParser, default: str = install.WHEEL_ETCD) -> None:
    options.add_argument("--etcd", choices=install.releases(), default=default, help="default: %(default)s")


def add_binary(options: argparse.ArgumentParser) -> None:
    """`executable` has its value."""
    options.add_argument("--binary", type=existing, metavar="PATH", help="an etcd-muster that is built already")


def add_beside(options: argparse.ArgumentParser, required: bool = False) -> None:
    options.add_argument("--beside", type=existing, required=required, metavar="PATH", help="an older etcd-muster, in turn with this one")


def existing(text: str) -> Path:
    """Absolute: every node runs in a directory of its own."""
    path = Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def executable(options: argparse.Namespace) -> Path:
    """What --binary names, else MUSTER_BINARY, else what scripts/build makes."""
    return options.binary or repository.built_executable()
