"""Whether a history of reads and writes of one register is linearizable (Herlihy & Wing; Lowe's just-in-time search).

An operation takes effect at one moment between its call and its answer. One whose outcome is unknown (a timeout, a
connection that broke) may take effect at any moment after its call, or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Optional

Value = Optional[str]  # None: no such key


@dataclass(eq=False)
class Operation:
    """Times are of one clock; `answered` None: its outcome is unknown (a read then proves nothing)."""

    is_write: bool
    value: Value  # written, or read
    called: float
    answered: float | None

    def __str__(self) -> str:
        end = "?" if self.answered is None else f"{self.answered:.6f}"
        return f"{'write' if self.is_write else 'read '} {self.value} {self.called:.6f} to {end}"


State = tuple[Value, frozenset[Operation]]  # what the register holds, and which of the open operations have taken effect


def violation(history: Iterable[Operation], start: Value = None) -> str | None:
    """The first operation that no order of effects explains; None: the history is linearizable."""
    known = [one for one in history if one.is_write or one.answered is not None]
    calls = [(one.called, 0, one) for one in known]
    answers = [(one.answered, 1, one) for one in known if one.answered is not None]
    possible: set[State] = {(start, frozenset())}
    opened: set[Operation] = set()
    # At equal times the call comes first: that allows more orders, never fewer.
    for _, is_answer, one in sorted(calls + answers, key=lambda event: event[:2]):
        if not is_answer:
            opened.add(one)
            continue
        possible = {(value, done - {one}) for value, done in _until_done(one, possible, opened)}
        opened.discard(one)
        if not possible:
            return f"no order of effects explains {one}"
    return None


def _until_done(one: Operation, possible: set[State], opened: set[Operation]) -> set[State]:
    """Every state in which this operation has taken effect, after any of the open ones before it."""
    reached: set[State] = set()
    seen = set(possible)
    waiting = list(possible)
    while waiting:
        state = value, done = waiting.pop()
        if one in done:
            reached.add(state)
            continue
        for other in opened - done:
            if not other.is_write and other.value != value:
                continue
            after = (other.value if other.is_write else value, done | {other})
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return reached
