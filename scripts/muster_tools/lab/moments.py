"""What moments and spans of time come to, all in seconds of one clock."""

from __future__ import annotations

import math
from collections.abc import Iterable


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of them lasts."""
    total, reached = 0.0, -math.inf
    for since, until in sorted(spans):
        total += max(until - max(since, reached), 0)
        reached = max(reached, until)
    return total


def longest_gap(moments: Iterable[float], since: float = -math.inf) -> float:
    """Between one moment and the next, of the gaps that ended after `since`."""
    at = sorted(moments)
    return max((b - a for a, b in zip(at, at[1:]) if b > since), default=0.0)
