"""A row, its statistics and its bound; all rows together, as docs/figures.json keeps them.

A row's samples are pairs: ours and the other's, measured one after the other in the same run. Every ratio says how many times as
much ours costs: 1 is even, less is better, also where the figure itself is a rate.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from muster_tools.repository import DOCS

FAMILIES = ("discovery", "forming", "replacing", "stopping", "upgrade", "releases", "snapshots", "recovery", "rest", "cost", "growth", "inside", "size")
STORE = DOCS / "figures.json"


@dataclass
class Bound:
    """All that are given must hold, by the medians."""

    ratio: float | None = None  # at most that
    within: list[float] | None = None  # the ratio is between these two
    excess: float | None = None  # ours is at most so much more, in the row's unit
    ours: float | None = None  # ours alone is at most that

    def told(self, unit: str) -> str:
        unit = f" {unit}" if unit else ""
        parts = [
            f"≤ {times(self.ratio)}" if self.ratio is not None else "",
            f"{short(self.within[0])} to {short(self.within[1])}, the noise" if self.within is not None else "",
            f"≤ {short(self.excess)}{unit} more" if self.excess is not None else "",
            f"ours ≤ {short(self.ours)}{unit}" if self.ours is not None else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass
class Row:
    key: str  # family/what
    title: str
    unit: str
    other: str  # whom it is compared with
    ours: list[float]
    others: list[float] = field(default_factory=list)  # empty: there is only ours
    bound: Bound | None = None
    rate: bool = False  # more is better
    note: str = ""  # what the samples don't say
    quick: bool = False  # stable enough to be compared with the last full run's
    headline: bool = False  # in docs/evidence.md
    failed: int = 0  # how often the other failed its job: such a run has no sample
    date: str = ""
    machine: str = ""

    @property
    def family(self) -> str:
        return self.key.partition("/")[0]

    def ratios(self) -> list[float]:
        pairs = zip(self.ours, self.others)
        return [(b / a if self.rate else a / b) for a, b in pairs if (a if self.rate else b)]

    def ratio(self) -> float | None:
        ratios = self.ratios()
        return statistics.median(ratios) if ratios else None

    def interval(self) -> tuple[float, float] | None:
        """Where the ratio lies with 95 % confidence, whatever the samples' distribution: between two of them in order (the sign test)."""
        return interval(self.ratios())

    def steady(self) -> float | None:
        """The best of ours to the best of the other's: what a busy machine changes least. None where the other's is zero."""
        if not self.ratios():
            return None
        best = max if self.rate else min
        ours, other = best(self.ours), best(self.others)
        above, below = (other, ours) if self.rate else (ours, other)
        return above / below if below else None

    def is_certain(self) -> bool:
        """Whether the whole interval, of the ratio or of how much more ours is, is on the one side of the bound that the median is on."""
        bound = self.bound or Bound()
        more = [ours - other for ours, other in zip(self.ours, self.others)]
        of_each = ((bound.ratio, self.interval()), (bound.excess, interval(more)))
        return not any(most is not None and found and found[0] <= most < found[1] for most, found in of_each)

    def reached(self) -> bool | None:
        bound, ratio = self.bound, self.ratio()
        if bound is None:
            return None
        if ratio is None and (bound.ratio is not None or bound.within is not None):
            return False
        ours = statistics.median(self.ours)
        return all(
            (
                bound.ratio is None or ratio <= bound.ratio,
                bound.within is None or bound.within[0] <= ratio <= bound.within[1],
                bound.excess is None or ours - statistics.median(self.others) <= bound.excess,
                bound.ours is None or ours <= bound.ours,
            )
        )

    def theirs(self) -> str:
        failed = f"{self.failed} of {self.failed + len(self.others)} failed" if self.failed else ""
        return ", ".join(part for part in (spread(self.others, self.unit) if self.others or not failed else "", failed) if part)

    def beside(self) -> str:
        """The ratio with its interval."""
        ratios, interval = self.ratios(), self.interval()
        if not ratios:
            return ""
        said = times(self.ratio())
        if interval is not None and interval[0] != interval[1]:
            said += f" ({times(interval[0])} to {times(interval[1])})"
        if self.bound is not None and self.bound.excess is not None:
            more = f"{short(statistics.median(self.ours) - statistics.median(self.others))} {self.unit}".rstrip()
            said += f"; {more} more"
        return said

    def pairs_spread(self) -> str:
        """The lowest and the highest pair's ratio."""
        ratios = self.ratios()
        return f"{times(min(ratios))} to {times(max(ratios))}" if ratios and min(ratios) != max(ratios) else ""

    def told_bound(self) -> str:
        return self.bound.told(self.unit) if self.bound else ""


@dataclass
class Curve:
    """Ours alone, at sizes: what the growth panel shows."""

    key: str
    title: str
    x: str
    unit: str
    points: list[list[float]]  # size, median, lowest, highest
    why: str
    date: str = ""
    machine: str = ""

    @property
    def family(self) -> str:
        return self.key.partition("/")[0]


class Figures:
    """Rows and curves by key; what is measured anew takes the place of what was."""

    def __init__(self, path: Path = STORE):
        self.path = path
        stored = json.loads(path.read_text()) if path.is_file() else {"rows": [], "curves": []}
        self.rows = {row["key"]: _row(row) for row in stored["rows"]}
        self.curves = {curve["key"]: Curve(**curve) for curve in stored["curves"]}

    def replace(self, families: list[str], found: list[Row | Curve]) -> None:
        """These families' figures are now those found; a row that isn't measured any more goes."""
        for kind in (self.rows, self.curves):
            for key in [key for key, one in kind.items() if one.family in families]:
                del kind[key]
        for one in found:
            (self.rows if isinstance(one, Row) else self.curves)[one.key] = one

    def in_order(self, families: list[str] | tuple[str, ...] = FAMILIES) -> list[Row]:
        return [row for family in families for row in self.rows.values() if row.family == family]

    def write(self) -> None:
        rows = [{**asdict(row), "ratio": row.ratio(), "steady": row.steady()} for row in self.rows.values()]
        curves = [asdict(curve) for curve in self.curves.values()]
        self.path.write_text(_lines({"rows": rows, "curves": curves}))


def _row(stored: dict) -> Row:
    known = {name: value for name, value in stored.items() if name not in ("ratio", "steady")}
    return Row(**{**known, "bound": Bound(**known["bound"]) if known["bound"] else None})


def _lines(stored: dict) -> str:
    """One row a line, and numbers no longer than they are good: a change shows as what it is."""
    kinds = []
    for kind, entries in stored.items():
        lines = ",\n".join(json.dumps(_rounded(entry), ensure_ascii=False) for entry in entries)
        kinds.append(f'"{kind}": [\n{lines}\n]')
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return value


def interval(values: list[float]) -> tuple[float, float] | None:
    """Of the median, by the sign test: so many are left out at each end that both tails together hold at most 5 %. None: too few."""
    ordered, number = sorted(values), len(values)
    tail = lambda left_out: sum(math.comb(number, n) for n in range(left_out)) / 2**number
    left_out = max((n for n in range(number // 2 + 1) if tail(n) <= 0.025), default=0)
    return (ordered[left_out - 1], ordered[-left_out]) if left_out else None


def short(value: float | None) -> str:
    """Three figures, and no more zeros than it takes."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 0.1:
        return f"{value:.2f}"
    return f"{value:.2g}"


def times(ratio: float | None) -> str:
    """A ratio: what is far below 1 as a fraction."""
    return f"1/{1 / ratio:,.0f}" if ratio and ratio <= 0.1 else short(ratio)


def spread(values: list[float], unit: str) -> str:
    if not values:
        return "-"
    unit = f" {unit}" if unit else ""
    if min(values) == max(values):
        return f"{short(values[0])}{unit}"
    return f"{short(statistics.median(values))}{unit} ({short(min(values))} to {short(max(values))})"


def today() -> str:
    return datetime.date.today().isoformat()


def machine() -> str:
    """In neutral words: what a figure depends on, and nothing that names a host."""
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    busy = ", busy with other work" if os.getloadavg()[0] > os.cpu_count() else ""
    return f"{os.cpu_count()} shared cores ({_processor()}), {platform.system()} {kernel}{busy}"


def _processor() -> str:
    try:
        models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        models = []
    return ", ".join(dict.fromkeys([*models, platform.machine()]))
