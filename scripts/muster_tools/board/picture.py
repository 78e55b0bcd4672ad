"""The board of docs/dashboard.json as an SVG: each panel at its place, with what a Prometheus answered. Readable on light and on dark."""

from __future__ import annotations

import math
import re
from html import escape

from muster_tools.bench.plot import STYLE, fitting, round_marks, text

WIDTH, MARGIN, GAP = 1200, 16, 10
COLUMN, ROW, TOP = (WIDTH - 2 * MARGIN) / 24, 26, 66
LIGHT = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#1b7c83", "#656d76")
DARK = ("#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#f778ba", "#d29922", "#39c5cf", "#9198a1")
STEPS = {"run": 2, "hold": 5, "halt": 4, "start": 7}  # in the colour of that number; others are changes
CHANGE = 0
LEGENDS = 4
Answers = dict[tuple[int, str], list[dict]]


def svg(board: dict, answers: Answers, begin: float, end: float) -> str:
    height = TOP + ROW * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + MARGIN
    colours = lambda shades: "".join(f" .s{n} {{ stroke: {shade} }} .f{n} {{ fill: {shade} }}" for n, shade in enumerate(shades))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(board['title'])}: its board, over a minute of a real cluster</title>",
        f"<style>{STYLE}{colours(LIGHT)} @media (prefers-color-scheme: dark) {{{colours(DARK)} }}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
        text(MARGIN, 30, f"{board['title']}, cluster blue", "text", size=19, weight=600),
        text(MARGIN, 50, f"{end - begin:.0f} seconds of a real run: one of three waits; they form; a spare waits and replaces a lost member; the leader restarts", "soft"),
    ]
    for panel in board["panels"]:
        place = panel["gridPos"]
        box = (MARGIN + place["x"] * COLUMN, TOP + place["y"] * ROW, place["w"] * COLUMN - GAP, place["h"] * ROW - GAP)
        series = [(target, one) for target in panel["targets"] for one in answers[panel["id"], target["refId"]]]
        left, top, wide, high = box
        parts.append(f'<rect class="grid" fill="none" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="5"/>')
        parts.append(text(left + 10, top + 19, panel["title"], "text", weight=600))
        draw = {"stat": _stat, "table": _table, "state-timeline": _timeline, "timeseries": _lines}[panel["type"]]
        parts += draw(panel, series, box, begin, end)
    return "\n".join([*parts, "</svg>", ""])


def _stat(panel, series, box, begin, end) -> list[str]:
    left, top, wide, high = box
    numbers = [f"{float(one['value'][1]):g}" for _, one in series]
    said = " and ".join(numbers)
    legend = " and ".join(_legend(target, one) for target, one in series)
    return [text(left + 10, top + 56, said, "text", size=28, weight=600), text(left + 10, top + high - 10, legend, "soft", size=11)]


def _table(panel, series, box, begin, end) -> list[str]:
    left, top, wide, _ = box
    columns = {"instance": 0, "member": 0.25, "role": 0.56, "cluster": 0.69}
    at = [left + 10 + share * (wide - 10) for share in columns.values()]
    parts = [text(x, top + 42, column, "soft", size=11) for x, column in zip(at, columns)]
    rows = sorted((one["metric"] for _, one in series), key=lambda labels: labels["instance"])
    for number, labels in enumerate(rows):
        parts += [text(x, top + 62 + 22 * number, labels.get(column, ""), "text", size=12) for x, column in zip(at, columns)]
    return parts


def _timeline(panel, series, box, begin, end) -> list[str]:
    left, top, wide, high = box
    x0, x1, across = _axis(left + 100, left + wide - 14, begin, end)
    instances = sorted({one["metric"]["instance"] for _, one in series})
    tall = (high - 62) / max(len(instances), 1)
    parts = _seconds(x0, x1, top + 30, top + high - 28, begin, end)
    for row, instance in enumerate(instances):
        y = top + 32 + row * tall
        parts.append(text(left + 10, y + tall / 2 + 4, instance, "soft", size=11))
        for _, one in series:
            labels = one["metric"]
            if labels["instance"] != instance:
                continue
            for first, last in _spans([moment for moment, _ in one["values"]]):
                kind = STEPS.get(labels["step"], CHANGE)
                wide_here = max(across(min(last + 1, end)) - across(first), 1.5)
                parts.append(f'<rect class="f{kind}" fill-opacity="0.75" x="{across(first):.1f}" y="{y:.1f}" width="{wide_here:.1f}" height="{tall - 8:.1f}"/>')
                name = labels.get("reason") or labels["step"]
                if wide_here > 6.5 * len(name) + 8:
                    parts.append(text(across(first) + 5, y + (tall - 8) / 2 + 4, name, "text", size=11))
    return parts


def _spans(moments: list[float]) -> list[tuple[float, float]]:
    """Where a series was there without a gap."""
    spans: list[tuple[float, float]] = []
    for moment in moments:
        if spans and moment - spans[-1][1] <= 1.5:
            spans[-1] = (spans[-1][0], moment)
        else:
            spans.append((moment, moment))
    return spans


def _lines(panel, series, box, begin, end) -> list[str]:
    left, top, wide, high = box
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    finite = lambda one: [(moment, float(value)) for moment, value in one["values"] if math.isfinite(float(value))]
    found = [(_legend(target, one), finite(one)) for target, one in series]
    legend_lines = -(-min(len(found), LEGENDS) // 2)
    y1, y0 = top + 34, top + high - 24 - 15 * legend_lines
    x0, x1, across = _axis(left + 52, left + wide - 14, begin, end)
    most = max((value for _, points in found for _, value in points), default=1) or 1
    scale, suffix = _scale(unit, most)
    marks = round_marks(most / scale)
    up = lambda value: y0 - value / scale / marks[-1] * (y0 - y1)
    parts = _seconds(x0, x1, y1, y0, begin, end)
    for mark in marks:
        parts.append(f'<path class="grid" d="M{x0:.1f} {up(mark * scale):.1f}H{x1:.1f}"/>')
        parts.append(text(x0 - 5, up(mark * scale) + 4, f"{mark:g}{suffix}", "soft", anchor="end", size=11))
    for number, (name, points) in enumerate(found):
        for first, last in _spans([moment for moment, _ in points]):
            line = "L".join(f"{across(moment):.1f} {up(value):.1f}" for moment, value in points if first <= moment <= last)
            parts.append(f'<path class="s{number % 8}" fill="none" stroke-width="1.8" stroke-linecap="round" d="M{line}{"" if "L" in line else "h1"}"/>')
    shown = found if len(found) <= LEGENDS else found[: LEGENDS - 1]
    for number, (name, _) in enumerate(shown):
        x, y = left + 12 + number % 2 * (wide - 20) / 2, y0 + 32 + 15 * (number // 2)
        parts.append(f'<path class="s{number % 8}" stroke-width="3" d="M{x:.1f} {y - 4:.1f}h12"/>')
        parts.append(text(x + 17, y, fitting(name, int(wide / 2 / 6.2) - 4), "soft", size=11))
    if len(shown) < len(found):
        parts.append(text(left + 12 + (wide - 20) / 2, y0 + 32 + 15 * (LEGENDS // 2 - 1), f"and {len(found) - len(shown)} more", "soft", size=11))
    return parts


def _axis(x0: float, x1: float, begin: float, end: float):
    return x0, x1, lambda moment: x0 + (moment - begin) / (end - begin) * (x1 - x0)


def _seconds(x0: float, x1: float, y1: float, y0: float, begin: float, end: float) -> list[str]:
    """Some marks of the time, from the first second on."""
    marks = [mark for mark in round_marks(end - begin) if mark <= end - begin]
    at = lambda mark: x0 + mark / (end - begin) * (x1 - x0)
    lines = [f'<path class="grid" d="M{at(mark):.1f} {y1:.1f}V{y0:.1f}"/>' for mark in marks]
    return lines + [text(at(mark), y0 + 15, f"{mark:g} s", "soft", anchor="middle", size=11) for mark in marks]


def _scale(unit: str, most: float) -> tuple[float, str]:
    if unit == "percentunit":
        return 0.01, " %"
    if unit == "s":
        return next((scale, f" {name}") for scale, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")) if most >= 2 * scale or scale == 1)
    return 1, {"reqps": "/s"}.get(unit, "")


def _legend(target: dict, one: dict) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda label: one["metric"].get(label[1], ""), target["legendFormat"])
