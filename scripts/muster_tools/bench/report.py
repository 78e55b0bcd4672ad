"""What is made of the figures: a table on the screen, docs/figures.md, the plot, and the block in docs/evidence.md."""

from __future__ import annotations

import re
from pathlib import Path

from muster_tools.bench import plot
from muster_tools.bench.figures import Figures, Row, short, spread
from muster_tools.repository import DOCS

TABLE, PLOT, EVIDENCE = (DOCS / name for name in ("figures.md", "figures.svg", "evidence.md"))
BEGIN, END = "<!-- figures: scripts/bench writes this block -->", "<!-- end of figures -->"

INTRODUCTION = """\
# Figures

Written by `scripts/bench`; [figures.json](figures.json) has every sample. Ours and the other are measured in turn in the same run,
on the same machine: medians, with lowest and highest in brackets. **The ratio is what to quote**: how many times as much ours costs
(below 1: less; of rates the reverse), the median of the pairs' ratios, with the 95 % interval of that median in brackets. A bound is on
the ratio unless it says otherwise, and *undecided* where that interval holds it: another run may end on its other side.
ARCHITECTURE.md says how it is measured.

![Ratios with their bounds, and how it grows](figures.svg)
"""
GROWTH = """\

## How it grows

Ours alone, median (lowest to highest); the shape is the figure.

| what | at | why |
|---|---|---|
"""
PEERS = """\

## The others

awscli is PyPI's; it prints all of an answer, `discover` what a roster needs. The bash bootstrappers, [`seed.sh`](../scripts/muster_tools/bench/bootstrappers/seed.sh) and
[`group.sh`](../scripts/muster_tools/bench/bootstrappers/group.sh), were written anew from the documents of what they stand for, and are run
again a second after they end, as a unit would. "By hand" is the same etcd with the flags an operator would give it (in an upgrade with the settings that ours passes). tini is Debian's.
The hello-world ([`benches/hello.rs`](../benches/hello.rs)) is built by the same command as the executable: its large crates, in the
same versions, profile and target. What the seed's image holds is the installed size of its packages on an empty Debian.
"""


def screen(rows: list[Row]) -> None:
    for row in rows:
        print(row.title)
        print(f"    ours {spread(row.ours, row.unit)}; {row.other} {row.theirs()}")
        bound = f"; bound {row.told_bound()}: {verdict(row)}" if row.bound else ""
        print(f"    ratio {row.beside() or '-'}{bound}{'; ' + row.note if row.note else ''}", flush=True)


def write(figures: Figures) -> None:
    figures.write()
    # Of what is kept, which is rounded: whoever makes them anew must get the same.
    for path, text in made_of(Figures(figures.path)).items():
        path.write_text(text)


def made_of(figures: Figures) -> dict[Path, str]:
    """What each file is to hold."""
    rows = figures.in_order()
    head, _, rest = EVIDENCE.read_text().partition(BEGIN)
    evidence = f"{head}{BEGIN}\n{_block(rows)}{END}{rest.partition(END)[2]}"
    return {TABLE: _page(rows, figures), PLOT: plot.svg(rows, list(figures.curves.values())), EVIDENCE: evidence}


def _page(rows: list[Row], figures: Figures) -> str:
    parts = [INTRODUCTION]
    for family in dict.fromkeys(row.family for row in rows):
        parts += _family(family, [row for row in rows if row.family == family])
    curves = list(figures.curves.values())
    if curves:
        parts.append(GROWTH.rstrip("\n"))
    for curve in curves:
        points = "; ".join(f"{int(x):,}: {short(m)} {curve.unit} ({short(a)} to {short(b)})" for x, m, a, b in curve.points)
        parts.append(f"| {curve.title}, by {curve.x} ({curve.date}) | {points} | {curve.why} |")
    parts.append(PEERS.rstrip("\n"))
    machines = dict.fromkeys(one.machine for one in [*rows, *curves])
    parts.append(f"\nMeasured on: {'; '.join(machines)}.\n")
    return "\n".join(parts)


def _family(family: str, rows: list[Row]) -> list[str]:
    parts = [
        f"\n## {'Inside the process' if family == 'inside' else family.capitalize()}\n",
        "| figure | ours | against | theirs | ratio | its pairs | bound | pairs | date |\n|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bound = f"{row.told_bound()}: {verdict(row)}" if row.bound else ""
        ours = spread(row.ours, row.unit)
        cells = (_own_title(row), ours, row.other, row.theirs(), row.beside(), row.pairs_spread(), bound, str(len(row.ours)), row.date)
        parts.append(f"| {' | '.join(cells)} |")
    notes = {note: [_own_title(row) for row in rows if row.note == note] for note in dict.fromkeys(row.note for row in rows) if note}
    told = (f"- {'; '.join(dict.fromkeys(titles))}: {note}." for note, titles in notes.items())
    return [*parts, *([""] if notes else []), *told]


def _own_title(row: Row) -> str:
    """Without the family, which the heading says."""
    return re.sub(rf"^{row.family}(, |: )", "", row.title)


def _block(rows: list[Row]) -> str:
    shown = [row for row in rows if row.headline]
    if not shown:
        return ""
    dates = sorted({row.date for row in shown})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    fewest = min((len(row.ours) for row in shown if len(row.ours) > 1), default=1)
    lines = [
        f"Measured {when} on {'; '.join(dict.fromkeys(row.machine for row in shown))}. Ours and the other in turn, in one run; medians of",
        f"at least {fewest} pairs, where there is more than one number to be had. The ratio is how many times as much ours costs, with the 95 %",
        "interval of the median; *undecided* where that holds the bound. Discovery is from a local server without TLS that answers from memory;",
        "whole clusters share these cores. More: [figures.md](figures.md).\n",
        "![Ratios with their bounds, and how it grows](figures.svg)\n",
        "| figure | ours | against | theirs | ratio | bound |\n|---|---|---|---|---|---|",
    ]
    for row in shown:
        bound = f"{row.told_bound()}: {verdict(row)}" if row.bound else ""
        ours, theirs = (re.sub(r" \([^)]*\)", "", said) for said in (spread(row.ours, row.unit), row.theirs()))
        lines.append(f"| {row.title} | {ours} | {row.other} | {theirs} | {row.beside()} | {bound} |")
    return "\n".join(lines) + "\n"


def verdict(row: Row) -> str:
    told = "reached" if row.reached() else "**missed**"
    return told if row.is_certain() else f"{told}, undecided"
