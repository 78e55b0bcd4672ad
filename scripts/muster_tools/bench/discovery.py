"""Discovery: one listing of the tagged instances, by `discover --json` and by the AWS CLI, from pages in memory.

Both write to /dev/null; the server's share is what a page takes from memory to a socket.
"""

from __future__ import annotations

import os

from muster_tools.bench import peers
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import cost_of, pairs, progress
from muster_tools.bench.peers import Options

SIZES = {3: 50, 1_000: None, 10_000: 10}  # how many times faster than awscli it must be
MEMORY_RATIO, MEMORY_MIB = 0.1, 8
# The seed asked for the tags of the key, then of the value, then for each instance by itself.
SEEDS_WAY = r"""
set -e
"$0" ec2 describe-tags --filters Name=resource-type,Values=instance Name=key,Values=etcd --output text >/dev/null
for id in $("$0" ec2 describe-tags --filters Name=resource-type,Values=instance Name=key,Values=etcd Name=value,Values=1 \
    --query 'Tags[].ResourceId' --output text); do
    "$0" ec2 describe-instances --instance-ids "$id" --query 'Reservations[].Instances[].PrivateIpAddress' --output text
done
"""


def environment(endpoint: str) -> dict[str, str]:
    """Everything but the listing given, so that only the listing is measured."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "AWS_ENDPOINT_URL_EC2": endpoint,
        "DOCKER_AWSREG": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }


def measure(options: Options) -> list[Row]:
    peers.need("/usr/bin/time")
    aws = str(peers.awscli())
    ours = [str(options.binary), "discover", "--json"]
    listing = [aws, "ec2", "describe-instances", "--filters", "Name=tag:etcd,Values=1", "--output", "json"]
    rows: list[Row] = []
    for size in [3, 1_000] if options.quick else SIZES:
        progress(f"discovery, {size:,} instances")
        rows += _at(size, ours, listing, "awscli", options)
    if not options.quick:
        progress("discovery, 3 instances, the seed's way")
        rows += _at(3, ours, ["/bin/bash", "-c", SEEDS_WAY, aws], "seed", options)
    return rows


def _at(size: int, ours: list[str], theirs: list[str], name: str, options: Options) -> list[Row]:
    from muster_tools.lab.replay import Replay

    with Replay(instances=size) as server:
        given = environment(server.url)
        calls = [_calls(server, command, given) for command in (ours, theirs)]  # also the warm-up
        large = size > 100
        mine, other = pairs(options.pairs, *(lambda command=command: cost_of(command, given, large) for command in (ours, theirs)))
        weighed = (mine, other) if large else pairs(options.pairs, *(lambda c=c: cost_of(c, given, peak=True) for c in (ours, theirs)))
    plain = name == "awscli"
    faster = SIZES[size] if plain else None
    quick = plain and size < 10_000
    label = "awscli describe-instances" if plain else "the seed's way by awscli: tags twice, then each instance"
    note = "" if plain else "the seed's way at 3 only: it asks once per instance, at 10,000 for hours"
    key, title = f"discovery/{name}-{size}", f"discovery, {size:,} instances"

    def row(what: str, unit: str, a: list[float], b: list[float], bound: Bound | None = None, **more) -> Row:
        return Row(f"{key}-{what}", f"{title}: {more.pop('says', what)}", unit, label, a, b, bound, note=note, **more)

    return [
        row(
            "wall",
            "ms",
            [c.wall for c in mine],
            [c.wall for c in other],
            Bound(ratio=1 / faster) if faster else None,
            headline=size != 1_000,
        ),
        # What parsing costs beside an interpreter is no figure of the program alone: one executable, unchanged, took 1/19 of awscli's on one machine and
        # 1/13 on another, and 1/13 and 1/18 on the same within three hours. `inside` compares it with native code; here only the start counts.
        row("cpu", "ms", [c.cpu for c in mine], [c.cpu for c in other], says="CPU", quick=quick and not large),
        row(
            "memory",
            "MiB",
            *([c.peak for c in side] for side in weighed),
            Bound(ratio=MEMORY_RATIO, ours=MEMORY_MIB) if plain else None,
            says="peak resident",
            quick=quick,
            headline=plain and size == 10_000,
        ),
        row("calls", "", [calls[0]], [calls[1]], Bound(ours=-(-size // 1000)), says="API calls", quick=quick),
    ]


def _calls(server, command: list[str], given: dict[str, str]) -> int:
    before = server.calls
    cost_of(command, given)
    return server.calls - before
