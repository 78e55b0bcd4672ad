"""Inside the process: parsing and signing, by the programs in benches/, each against its limit in the same run."""

from __future__ import annotations

import json

from bench_parts import peers
from bench_parts.figures import Bound, Row
from bench_parts.measure import progress
from bench_parts.peers import PLACE, Options

INSTANCES = 200  # of the page: a round takes milliseconds
ROUNDS = 30
PARSING_RATIO = 2.0


def measure(options: Options) -> list[Row]:
    rounds = max(ROUNDS, options.pairs)
    return [*_parsing(rounds), *_signing(rounds)]


def _parsing(rounds: int) -> list[Row]:
    from lab.replay import Replay

    program = peers.bench_program("parsing")
    page = PLACE / "page.xml"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(Replay(instances=INSTANCES).page())
    progress("parsing")
    seen = json.loads(peers.run([str(program), str(page), str(rounds)]))
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
    ]


def _signing(rounds: int) -> list[Row]:
    program = peers.bench_program("signing")
    progress("signing")
    seen = json.loads(peers.run([str(program), str(rounds)]))
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
