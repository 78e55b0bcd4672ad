"""Measures etcd-muster beside what people use, and beside the limit, in one run; keeps the figures in docs/.

Without arguments: everything, in some 90 minutes, ten of them at rest. It installs what it needs, prints the table, and writes
docs/figures.md, docs/figures.json, docs/figures.svg and the block of figures in docs/evidence.md. Exit code 1: a bound is missed, and named.

--beside OLD measures start, rest and forming of this executable and of an older one in turn, prints their ratios, and writes nothing.

--quick is for CI, three minutes once all is built: the figures that a busy machine doesn't change, each compared with the last
full run's, and one upgrade under writes. Exit code 1: a ratio got worse by more than a third, or an acknowledged write is lost. No absolute
time counts, and nothing is written.
"""

from __future__ import annotations

import argparse
import sys

from muster_tools import command
from muster_tools.bench import beside, figures, measure, peers, releases, report, snapshots, upgrade
from muster_tools.lab import install

QUICK = ("size", "inside", "discovery", "rest", "upgrade", "snapshots")
OWN_ETCD = ("upgrade", "releases", "snapshots", "recovery")  # their rows name the etcds that they run
PAIRS, QUICK_PAIRS = 10, 5


def main() -> int:
    options = parse_options()
    install.go_on_in_the_venv(*etcds(options))
    try:
        if options.table:
            report.write(figures.Figures())
            return 0
        machine = figures.machine()  # before it is busy with this
        given = peers.Options(command.executable(options), options.etcd, options.pairs, options.rest, options.quick, options.mib)
        if options.beside:
            print(beside.table(options.only, given, options.beside))
            return 0
        if options.quick:
            return quick(options.only, given)
        return full(options.only, given, machine)
    except measure.Failed as failure:
        print(f"bench: failed: {failure}", file=sys.stderr)
        return 1


def etcds(options: argparse.Namespace) -> list[str]:
    """What is to be installed."""
    wanted = [options.etcd]
    if options.table or options.beside:
        return wanted
    if "upgrade" in options.only:
        wanted += upgrade.needed(options.quick)
    if "releases" in options.only:
        wanted += releases.needed()
    if {"snapshots", "recovery"} & set(options.only):
        wanted += snapshots.needed()
    return wanted


def full(families: list[str], options: peers.Options, machine: str) -> int:
    """Each family is written as soon as it is measured, and one that fails keeps its old figures: nothing else is lost."""
    failed = []
    for family in families:
        try:
            found = run(family, options)
        except Exception as failure:  # whatever it is, the others' time is not lost
            failed.append(f"FAILED: {family}: {failure!r}")
            measure.progress(failed[-1])
            continue
        for one in found:
            one.date, one.machine = figures.today(), machine if family in OWN_ETCD else f"{machine}, etcd {options.etcd}"
        kept = figures.Figures()
        kept.replace([family], found)
        report.write(kept)
    rows = figures.Figures().in_order(families)
    report.screen(rows)
    missed = [row for row in rows if row.reached() is False]
    for row in missed:
        print(f"MISSED: {row.title}, against {row.other}: {row.beside() or figures.spread(row.ours, row.unit)}, bound {row.told_bound()}")
    print("\n".join(failed), end="\n" if failed else "")
    print(f"{len(missed)} bounds missed" if missed else "all bounds reached")
    return 1 if missed or failed else 0


def quick(families: list[str], options: peers.Options) -> int:
    from muster_tools.bench import regression

    baseline = figures.Figures().rows
    return regression.check(families, baseline, lambda family: run(family, options))


def run(family: str, options: peers.Options) -> list:
    import importlib

    return importlib.import_module(f"muster_tools.bench.{family}").measure(options)


def parse_options() -> argparse.Namespace:
    parser = command.parser("bench", __doc__)
    parser.add_argument("--quick", action="store_true", help="compare with docs/figures.json instead of writing it")
    parser.add_argument("--only", metavar="ROW,…", help=f"of {', '.join(figures.FAMILIES)}; the other rows stay as they are")
    parser.add_argument("--pairs", type=int, help=f"default: {PAIRS}, {QUICK_PAIRS} with --quick")
    parser.add_argument("--rest", type=int, default=600, metavar="SECONDS", help="watched at rest; default: %(default)s")
    sizes = "in etcd for snapshots: memory at each, the second beside others, one alone beside none; default: %(default)s"
    parser.add_argument("--mib", type=mibs, default="100,1024,4096", metavar="MIB,…", help=sizes)
    command.add_etcd(parser)
    command.add_binary(parser)
    command.add_beside(parser)
    parser.add_argument("--table", action="store_true", help="measure nothing: write table, plot and evidence anew from docs/figures.json")
    options = parser.parse_args()
    possible = tuple(beside.FAMILIES) if options.beside else QUICK if options.quick else figures.FAMILIES
    options.only = options.only.split(",") if options.only else list(possible)
    unknown = [family for family in options.only if family not in possible]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: none of {', '.join(possible)}")
    options.pairs = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    return options


def mibs(text: str) -> list[int]:
    return [command.positive(word) for word in text.split(",")]
