"""--quick: what got worse since the last full run, by ratios that a busy machine doesn't change."""

from __future__ import annotations

from collections.abc import Callable

from muster_tools.bench.figures import Row, times
from muster_tools.bench.measure import progress

WORSE = 4 / 3
SECOND_LOOKS = 2  # at a family that looks worse: the best of more runs is nearer to what the program costs


def check(families: list[str], baseline: dict[str, Row], measure: Callable[[str], list[Row]]) -> int:
    """0, or 1 with a line for each row that got worse."""
    lines = []
    for family in families:
        rows = {row.key: row for row in measure(family) if row.quick}
        known = {key for key, row in baseline.items() if row.quick and row.family == family}
        lines += [f"UNKNOWN: {key} is in one of this run and docs/figures.json alone: run scripts/bench" for key in sorted(known ^ rows.keys())]
        for _ in range(SECOND_LOOKS):
            if not any(_worse(row, baseline) for row in rows.values()):
                break
            progress(f"{family} looks worse than before: once more")
            for again in measure(family):
                if again.key in rows:
                    rows[again.key].ours += again.ours
                    rows[again.key].others += again.others
        for row in rows.values():
            before = baseline.get(row.key)
            was = times(before.steady()) if before else "not measured yet"
            print(f"{row.title}, against {row.other}: {times(row.steady())}, was {was}", flush=True)
            if _worse(row, baseline):
                lines.append(f"WORSE: {row.title}, against {row.other}: ratio {times(row.steady())}, baseline {was}")
    print("\n".join(lines) or "no figure is worse by a third")
    return 1 if lines else 0


def _worse(row: Row, baseline: dict[str, Row]) -> bool:
    before = baseline.get(row.key)
    return before is not None and row.steady() > before.steady() * WORSE
