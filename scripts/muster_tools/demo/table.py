"""How a node and a decision look as one line of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from muster_tools.demo.stage import Actor, Decision

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
PHASE_COLOURS = {
    "healthy": "green",
    "hold": "yellow",
    "halt": "red",
    "unhealthy": "red",
    "etcd ended": "red",
    "terminated": "red",
}
SHORT_ID = 10  # i- and eight digits: what people say to each other


class Painter:
    """Puts colour around text, or not."""

    def __init__(self, colours: bool):
        self._colours = colours

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._colours and colour else text


@dataclass(frozen=True)
class Column:
    title: str
    width: int
    narrow: int  # on a terminal of 80 columns
    cell: Callable[[Actor], str]
    to_the_right: bool = False


COLUMNS = [
    Column("instance", 19, SHORT_ID, lambda actor: actor.instance),
    Column("address", 15, 14, lambda actor: actor.node.address),
    Column("phase", 14, 14, lambda actor: actor.phase),
    Column("member", 16, 16, lambda actor: actor.member or "-"),
    Column("role", 7, 7, lambda actor: actor.role),
    Column("up s", 7, 5, lambda actor: figure(actor.seconds_up()), to_the_right=True),
    Column("ready s", 7, 7, lambda actor: figure(actor.seconds_to_healthy()), to_the_right=True),
]
GAP, NARROW_GAP = 2, 1


def table(actors: list[Actor], painter: Painter, width: int) -> list[str]:
    """A heading and a row per node; ids are shortened where the terminal is narrow."""
    fits = sum(column.width + GAP for column in COLUMNS) - GAP <= width
    heading = _row([column.title for column in COLUMNS], fits)
    return [painter.paint(crop(heading, width), "dim"), *(_node(actor, painter, fits, width) for actor in actors)]


def _node(actor: Actor, painter: Painter, fits: bool, width: int) -> str:
    row = crop(_row([column.cell(actor) for column in COLUMNS], fits), width)
    if actor.ended is not None:
        return painter.paint(row, "red")
    coloured = painter.paint(actor.phase, PHASE_COLOURS.get(actor.phase, "cyan"))
    return row.replace(f" {actor.phase} ", f" {coloured} ", 1)


def _row(cells: list[str], fits: bool) -> str:
    gap = " " * (GAP if fits else NARROW_GAP)
    return gap.join(_fill(cell, column, fits) for cell, column in zip(cells, COLUMNS))


def _fill(cell: str, column: Column, fits: bool) -> str:
    width = column.width if fits else column.narrow
    cell = crop(cell, width)
    return cell.rjust(width) if column.to_the_right else cell.ljust(width)


def decision_line(decision: Decision, origin: float, painter: Painter, width: int) -> str:
    head = f"{seconds(decision.at - origin):>8}  {short(decision.instance)}  "
    return painter.paint(head, "dim") + crop(decision.text, max(0, width - len(head)))


def short(instance: str) -> str:
    return instance[:SHORT_ID]


def seconds(value: float) -> str:
    return f"{figure(value)} s"


def figure(value: float | None) -> str:
    """Seconds, with hundredths while they tell something."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def crop(text: str, width: int) -> str:
    """One line of at most so many columns, whatever a log holds."""
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable if len(printable) <= width else printable[: max(0, width - 1)] + "…"
