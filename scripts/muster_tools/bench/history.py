"""What a client was told by a store, and what of it no linearizable store says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Put:
    """Times are of the machine's monotonic clock. Without `revision` it was not acknowledged, for that reason."""

    number: int
    called: float
    answered: float
    revision: int | None
    why: str = ""


@dataclass
class Read:
    """Of the put last acknowledged when it was called, through a quorum; one that failed proves nothing and is not kept."""

    number: int
    called: float
    answered: float
    revision: int  # of the store that was read
    found: int | None  # the put's revision there


@dataclass
class History:
    puts: list[Put]
    reads: list[Read]

    def acknowledged(self) -> list[Put]:
        return [put for put in self.puts if put.revision is not None]


def violations(history: History, stored: dict[int, int]) -> list[str]:
    """What no linearizable store answers. `stored`: each put that is there in the end, with its revision.

    Every put has a key of its own and the store's revision orders them all: so the store is one register, of which each answer
    tells the version.
    """
    broken = []
    for put in history.acknowledged():
        if stored.get(put.number) != put.revision:
            broken.append(f"put {put.number}, acknowledged at revision {put.revision}, is in the end {_at(stored.get(put.number))}")
    revision_of = {put.number: put.revision for put in history.acknowledged()}
    for read in history.reads:
        if read.found != revision_of.get(read.number):
            broken.append(f"put {read.number}, acknowledged at {revision_of.get(read.number)} before it was read, was {_at(read.found)}")
    seen = [*history.acknowledged(), *history.reads]
    answers, newest = sorted(seen, key=lambda one: one.answered), 0
    place = 0
    for one in sorted(seen, key=lambda one: one.called):
        while place < len(answers) and answers[place].answered < one.called:
            newest = max(newest, answers[place].revision)
            place += 1
        if one.revision < newest + isinstance(one, Put):
            broken.append(f"{one} came after an answer of revision {newest}")
    return broken


def _at(revision: int | None) -> str:
    return "missing" if revision is None else f"at revision {revision}"
