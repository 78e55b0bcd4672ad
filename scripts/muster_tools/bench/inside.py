"""Inside the process: parsing and signing, by the programs in benches/, each against its limit in the same run."""

from __future__ import annotations

import json

from muster_tools.bench import peers
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import progress
from muster_tools.bench.peers import PLACE, Options

INSTANCES = 200  # of the page: a round takes milliseconds
PROCESSES, ROUNDS_EACH = 10, 3  # what one allocator has come to holds for all rounds of its process
PARSING_RATIO = 2.0


def measure(options: Options) -> list[Row]:
    return [*_parsing(), *_signing()]


def _seen(program, *arguments: str) -> dict:
    """What so many runs of the program say, their rounds joined."""
    runs = [json.loads(peers.run([str(program), *arguments, str(ROUNDS_EACH)])) for _ in range(PROCESSES)]
    return {name: [s for run in runs for s in run[name]] if isinstance(value, list) else value for name, value in runs[0].items()}


def _parsing() -> list[Row]:
    from muster_tools.lab.replay import Replay

    program = peers.bench_program("parsing")
    page = PLACE / "page.xml"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(Replay(instances=INSTANCES).page())
    progress("parsing")
    seen = _seen(program, str(page))
    rate = lambda seconds: [seen["bytes"] / 1e6 / s for s in seconds]
    counts = {name: [count / seen["instances"]] for name, count in seen["allocations"].items()}
    bare = "quick-xml's own loop, which keeps nothing (the limit)"
    return [
        Row(
            "inside/parsing",
            "parsing DescribeInstances",
            "MB/s",
            bare,
            rate(seen["ours"]),
            rate(seen["bare"]),
            Bound(ratio=PARSING_RATIO),
            True,
            quick=True,
            headline=True,
        ),
        Row(
            "inside/allocations",
            "parsing: allocations per instance",
            "",
            "a copy of what is kept (the limit)",
            counts["reading"],
            counts["copying"],
            quick=True,
        ),
        Row("inside/bare-allocations", "parsing: allocations per instance", "", bare, counts["reading"], counts["bare"]),
    ]


def _signing() -> list[Row]:
    program = peers.bench_program("signing")
    progress("signing")
    seen = _seen(program)
    rate = lambda seconds: [seen["requests"] / s for s in seconds]
    ours, sigv4, hashes = (rate(seen[name]) for name in ("ours", "sigv4", "hashes"))
    return [
        Row("inside/signing", "signing: requests", "/s", "aws-sigv4's own sign (the limit)", ours, sigv4, None, True, headline=True),
        Row(
            "inside/hashes",
            "signing: requests",
            "/s",
            "its SHA-256 and HMACs alone",
            ours,
            hashes,
            None,
            True,
            "aws-sigv4 puts the request into canonical form besides",
            quick=True,
        ),
    ]
