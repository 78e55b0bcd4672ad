"""The line of a round, and the figures of all."""

from __future__ import annotations

import statistics
from collections import Counter

from muster_tools.rounds.plan import KINDS
from muster_tools.rounds.round import Outcome


def line(number: int, outcome: Outcome) -> str:
    plan = outcome.plan
    faults = " ".join(kind if times == 1 else f"{times}x {kind}" for kind, times in outcome.struck.items()) or "none"
    words = [
        f"round {number}",
        f"seed {plan.seed}",
        f"{plan.size} nodes by {plan.member_type}",
        f"faults: {faults}",
        f"healed after {outcome.healed_after:.1f} s",
    ]
    if outcome.alone:
        words.append("founded alone")
    elif outcome.without:
        words.append(f"founded without {outcome.without}")
    if outcome.exits:
        words.append(f"supervisors ended by themselves: {outcome.exits}")
    words.append(f"FAILED: {outcome.trouble}" if outcome.trouble else f"one cluster {outcome.converged_after:.1f} s later")
    return ", ".join(words)


def figures(outcomes: list[Outcome]) -> str:
    struck = sum((outcome.struck for outcome in outcomes), Counter())
    times = [outcome.converged_after for outcome in outcomes if not outcome.trouble] or [float("nan")]
    absent = sum(outcome.without > 0 and not outcome.alone for outcome in outcomes)
    rows = {
        "rounds": len(outcomes),
        "etcds started": sum(outcome.etcds for outcome in outcomes),
        "faults": f"{sum(struck.values())}: {', '.join(f'{kind} {struck[kind]}' for kind in KINDS if struck[kind])}",
        "founded by a majority, without the absent": absent,
        "founded by the older of two alone": sum(outcome.alone for outcome in outcomes),
        "from healed to one cluster": f"median {statistics.median(times):.1f} s, worst {max(times):.1f} s",
        "supervisors that ended by themselves": sum(len(outcome.exits) for outcome in outcomes),
        "two clusters": sum(len(outcome.clusters) > 1 for outcome in outcomes),
        "failed": sum(bool(outcome.trouble) for outcome in outcomes),
    }
    return "\n".join(f"{what}: {figure}" for what, figure in rows.items())
