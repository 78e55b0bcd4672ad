"""docs/figures.svg: each ratio on a log axis with its bound, and how it grows. Readable on light and on dark."""

from __future__ import annotations

import math
import statistics
from html import escape

from muster_tools.bench.figures import Curve, Row, short

WIDTH, MARGIN = 960, 28
LABELS = 388  # where the axis begins
VALUES = 96  # to its right
ROW_HEIGHT, TOP = 36, 92
PANEL_HEIGHT, PANEL_GAP = 168, 26
STYLE = """
  .page { fill: #ffffff } .text { fill: #1f2328 } .soft { fill: #656d76 } .grid { stroke: #d8dee4 } .even { stroke: #656d76 }
  .good { fill: #1a7f37; stroke: #1a7f37 } .bad { fill: #cf222e; stroke: #cf222e } .plain { fill: #0969da; stroke: #0969da }
  .bound { stroke: #bc4c00 } .bounded { fill: #bc4c00 } .band { fill: #bc4c00; fill-opacity: 0.22 } .spread { stroke-opacity: 0.4 }
  .line { fill: none; stroke: #0969da } .area { fill: #0969da; fill-opacity: 0.15; stroke: none }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #262c36 } .even { stroke: #9198a1 }
    .good { fill: #3fb950; stroke: #3fb950 } .bad { fill: #f85149; stroke: #f85149 } .plain { fill: #58a6ff; stroke: #58a6ff }
    .bound { stroke: #f0883e } .bounded { fill: #f0883e } .band { fill: #f0883e }
    .line { stroke: #58a6ff } .area { fill: #58a6ff }
  }
"""


def svg(rows: list[Row], curves: list[Curve]) -> str:
    curves = [curve for curve in curves if curve.key != "growth/cpu"]  # which has the shape of the time
    shown = [row for row in rows if _belongs(row)]
    ratios_end = TOP + ROW_HEIGHT * len(shown)
    growth_top = ratios_end + 84
    lines = -(-len(curves) // 2)
    height = growth_top + lines * (PANEL_HEIGHT + 60) if curves else ratios_end + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>etcd-muster measured: ratios to what people use and to the limit, and how it grows</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
        *_ratios(shown, ratios_end),
    ]
    if curves:
        parts += _growth(curves, growth_top)
    return "\n".join([*parts, "</svg>", ""])


def _belongs(row: Row) -> bool:
    """Those with a bound on the ratio, and the other programs for the same job."""
    bounded = row.bound is not None and (row.bound.ratio or row.bound.within or row.bound.excess)
    return row.ratio() is not None and bool(bounded or row.headline or row.family == "forming")


# The ratios.


def _ratios(rows: list[Row], end: int) -> list[str]:
    values = [v for row in rows for v in (*row.ratios(), *_bounds_of(row)) if v > 0] or [1]
    low, high = math.log10(min(values)) - 0.1, math.log10(max(*values, 1)) + 0.1
    right = WIDTH - MARGIN - VALUES
    at = lambda value: LABELS + (math.log10(max(value, 10**low)) - low) / (high - low) * (right - LABELS)
    parts = [
        text(MARGIN, 34, "How many times as much ours costs", "text", size=19, weight=600),
        text(MARGIN, 56, "median of the pairs' ratios, with lowest and highest; left of 1× is less than the other", "soft"),
        *_legend(WIDTH - MARGIN),
    ]
    for power in range(math.ceil(low), math.floor(high) + 1):
        x, kind = at(10**power), "even" if power == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{x:.1f} {TOP - 8}V{end}" stroke-width="{1.4 if power == 0 else 1}"/>')
        parts.append(text(x, end + 18, f"{10**power:g}×", "text" if power == 0 else "soft", anchor="middle", size=12))
    for number, row in enumerate(rows):
        parts += _ratio(row, TOP + ROW_HEIGHT * number + ROW_HEIGHT / 2, at, right)
    return parts


def _legend(right: float) -> list[str]:
    parts = []
    for kind, name, width in (("plain", "no bound", 72), ("bad", "missed", 66), ("good", "bound reached", 112), ("", "bound", 64)):
        right -= width
        mark = (
            f'<circle class="{kind}" cx="{right}" cy="30" r="5"/>'
            if kind
            else f'<path class="bound" d="M{right} 22V38" stroke-width="2.5"/>'
        )
        parts.append(mark + text(right + 9, 34, name, "soft", size=12))
    return parts


def _ratio(row: Row, y: float, at, right: float) -> list[str]:
    ratios, median = row.ratios(), row.ratio()
    kind = {None: "plain", True: "good", False: "bad"}[row.reached()]
    parts = [
        text(MARGIN, y - 2, fitting(row.title, 52), "text"),
        text(MARGIN, y + 13, fitting(f"against {row.other}", 64), "soft", size=11),
    ]
    bounds = _bounds_of(row)
    if len(bounds) == 2:
        left, wide = at(bounds[0]), at(bounds[1]) - at(bounds[0])
        parts.append(f'<rect class="band" x="{left:.1f}" y="{y - 11:.1f}" width="{max(wide, 3):.1f}" height="22"/>')
    elif bounds:
        parts.append(f'<path class="bound" d="M{at(bounds[0]):.1f} {y - 11:.1f}v22" stroke-width="2.5"/>')
    parts.append(
        f'<path class="{kind} spread" d="M{at(min(ratios)):.1f} {y:.1f}H{at(max(ratios)):.1f}" stroke-width="5" stroke-linecap="round"/>'
    )
    parts.append(f'<circle class="{kind}" cx="{at(median):.1f}" cy="{y:.1f}" r="5.5"/>')
    said = f"{1 / median:,.0f}× less" if 0 < median < 0.1 else f"{short(median)}×"
    parts.append(text(WIDTH - MARGIN, y + 5, said, "text", anchor="end", weight=600))
    return parts


def _bounds_of(row: Row) -> list[float]:
    """On the axis of ratios."""
    if row.bound is None:
        return []
    if row.bound.within:
        return row.bound.within
    if row.bound.ratio:
        return [row.bound.ratio]
    base = statistics.median(row.others)
    if row.bound.excess is not None:
        return [(base + row.bound.excess) / base]
    return [row.bound.ours / base] if row.bound.ours else []


# How it grows.


def _growth(curves: list[Curve], top: float) -> list[str]:
    wide = (WIDTH - 2 * MARGIN - PANEL_GAP) / 2
    parts = [text(MARGIN, top - 14, "How it grows", "text", size=19, weight=600)]
    for number, curve in enumerate(curves):
        x = MARGIN + (number % 2) * (wide + PANEL_GAP)
        parts += _panel(curve, x, top + number // 2 * (PANEL_HEIGHT + 60), wide)
    return parts


def _panel(curve: Curve, left: float, top: float, wide: float) -> list[str]:
    """Sizes on a log axis where they span decades, else as they are; costs from zero, unless they span decades too."""
    sizes, medians, lows, highs = zip(*curve.points)
    x0, x1, y0, y1 = left + 46, left + wide - 12, top + PANEL_HEIGHT, top + 40
    logarithmic = max(sizes) / min(sizes) >= 100
    steep = logarithmic and max(medians) / max(min(medians), 1e-9) >= 20
    place = math.log10 if logarithmic else float
    first, last = place(min(sizes)), place(max(sizes))
    across = lambda size: x0 + (place(size) - first) / ((last - first) or 1) * (x1 - x0)
    if steep:
        floor, ceiling = math.floor(math.log10(min(lows))), math.ceil(math.log10(max(highs)))
        up = lambda value: y0 - (math.log10(value) - floor) / (ceiling - floor) * (y0 - y1)
        marks = [10.0**power for power in range(floor, ceiling + 1)]
    else:
        marks = round_marks(max(highs))
        up = lambda value: y0 - value / marks[-1] * (y0 - y1)
    parts = [
        text(left, top + 14, f"{curve.title}, by {curve.x} ({curve.unit})", "text", weight=600),
        text(left, top + 29, fitting(curve.why, 76), "soft", size=11),
    ]
    for mark in marks:
        parts.append(f'<path class="grid" d="M{x0:.1f} {up(mark):.1f}H{x1:.1f}"/>')
        parts.append(text(x0 - 6, up(mark) + 4, f"{mark:,g}" if mark < 1e6 else f"{mark:.0e}", "soft", anchor="end", size=11))
    edge = [f"{across(s):.1f} {up(v):.1f}" for s, v in zip(sizes, highs)]
    edge += [f"{across(s):.1f} {up(v):.1f}" for s, v in reversed(list(zip(sizes, lows)))]
    line = [f"{across(s):.1f} {up(v):.1f}" for s, v in zip(sizes, medians)]
    parts.append(f'<path class="area" d="M{"L".join(edge)}Z"/><path class="line" d="M{"L".join(line)}" stroke-width="2"/>')
    for size, value in zip(sizes, medians):
        parts.append(f'<circle class="plain" cx="{across(size):.1f}" cy="{up(value):.1f}" r="3.5"/>')
        parts.append(text(across(size), y0 + 16, f"{int(size):,}", "soft", anchor="middle", size=11))
    return parts


def round_marks(most: float) -> list[float]:
    """Some four, on round numbers, from zero to above the most."""
    step = 10 ** math.floor(math.log10(most / 3 or 1))
    step *= next(times for times in (1, 2, 5, 10) if most <= step * times * 4.001)
    return [step * n for n in range(math.ceil(most / step - 1e-9) + 1)]


def text(x: float, y: float, text: str, kind: str, anchor: str = "start", size: int = 13, weight: int = 400) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def fitting(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" ,:(") + "…"
