"""Snapshots: taken and stored beside etcdctl and awscli while a client puts; memory by size; an upload alone; a long list; the executable.

The store is rclone's server over a folder in memory, the list is answered from memory by the lab's own S3. Both are on these cores.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta

from muster_tools.bench import peers, rclone
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import MIB, cost_of, pairs, progress
from muster_tools.bench.peers import Options
from muster_tools.bench.saving import Member, Stage, release

QUICK_MIB = 100  # of values in etcd
WALL_RATIO, CPU_RATIO, P99_RATIO = 1.2, 1.2, 1.1
PEAK_EXCESS_MIB = 4
UPLOAD_RATIO, UPLOAD_MEMORY_RATIO = 1.0, 0.05
FEW_PEAKS = 5  # they hardly differ; of large ones there is one
LISTED, LIST_SECONDS, LIST_MIB = 10_000, 2, 8
BINARY_MIB = 4.4
BY_HAND = "etcdctl snapshot save, then awscli s3 cp"
AWSCLI = "awscli s3 cp"
CLUSTER, FIRST = "65cb64aa69f721c6", datetime(2025, 1, 1)


def needed() -> list[str]:
    return [release()]


def measure(options: Options) -> list[Row]:
    peers.need("/usr/bin/time")
    rows = [_size(options), *_listing(options)]
    return [*_with_data(options), *rows]


def _with_data(options: Options) -> list[Row]:
    from muster_tools.lab.node import Lab

    sizes = [QUICK_MIB] if options.quick else sorted(options.mib)
    beside = sizes[1] if len(sizes) > 1 else None
    awscli = peers.awscli()
    few = min(options.pairs, FEW_PEAKS)
    rows: list[Row] = []
    with Lab(etcd=release(), muster=options.binary) as lab, rclone.Store("127.0.0.1", sizes[-1] * MIB) as store:
        member = Member(lab, options.binary, store)
        member.peak()  # the warm-up
        tiny = [member.peak() for _ in range(few)]
        for size in sizes:
            progress(f"snapshots, {size:,} MiB")
            member.fill(size)
            rows.append(_peak(size, [member.peak() for _ in range(few if size <= QUICK_MIB else 1)], tiny))
            if size == beside:
                rows += _saving(size, *pairs(options.pairs, member.ours, lambda: member.by_hand(awscli)))
    return rows


def _peak(size: int, peaks: list[float], tiny: list[float]) -> Row:
    title = f"snapshots, {size:,} MiB: peak resident of `snapshot save`"
    key, other = f"snapshots/memory-{size}", "the same of an empty etcd"
    bound = Bound(excess=PEAK_EXCESS_MIB)
    return Row(key, title, "MiB", other, peaks, tiny[: len(peaks)], bound, quick=size == QUICK_MIB, headline=size > QUICK_MIB)


def _saving(size: int, ours: list[dict[str, Stage]], by_hand: list[dict[str, Stage]]) -> list[Row]:
    title, key = f"snapshots, {size:,} MiB", "snapshots/save"
    puts = "a client puts 500 times a second; the store checks signatures, and is on the same cores"
    of = lambda stage, what: ([getattr(job[stage], what) for job in side] for side in (ours, by_hand))
    own = "CPU of the programs and of etcd, without what etcd takes for the puts alone"
    proved = f"{BY_HAND}, then back, and cmp"
    uploads = ([job["stored"].wall - job["taken"].wall for job in side] for side in (ours, by_hand))
    own_upload = "ours with etcd's hash of the keys, a look at what is there, and the manifest"
    return [
        Row(f"{key}-wall", f"{title}: taken and stored", "s", BY_HAND, *of("stored", "wall"), Bound(ratio=WALL_RATIO), note=puts, headline=True),
        Row(f"{key}-cpu", f"{title}: CPU, taken and stored", "s", BY_HAND, *of("stored", "cpu"), Bound(ratio=CPU_RATIO), note=own, headline=True),
        Row(
            f"{key}-p99",
            f"{title}: p99 of puts while it is taken",
            "ms",
            "etcdctl snapshot save",
            *of("taken", "p99"),
            Bound(ratio=P99_RATIO),
            note=puts,
            headline=True,
        ),
        Row(f"{key}-p99-stored", f"{title}: p99 of puts until it is stored", "ms", BY_HAND, *of("stored", "p99"), note=puts),
        Row(f"{key}-taken", f"{title}: taken", "s", "etcdctl snapshot save", *of("taken", "wall"), note=puts),
        Row("snapshots/upload", f"{title}: the upload", "s", AWSCLI, *uploads, Bound(ratio=UPLOAD_RATIO), note=own_upload, headline=True),
        Row(
            "snapshots/upload-memory",
            f"{title}: resident in the upload, the most",
            "MiB",
            AWSCLI,
            *of("stored", "resident"),
            Bound(ratio=UPLOAD_MEMORY_RATIO),
            headline=True,
        ),
        Row(f"{key}-proved", f"{title}: taken, stored and read back", "s", proved, *of("proved", "wall"), Bound(ratio=WALL_RATIO), note=puts),
        Row(f"{key}-proved-cpu", f"{title}: CPU, taken, stored and read back", "s", proved, *of("proved", "cpu"), Bound(ratio=CPU_RATIO), note=own),
    ]


def _listing(options: Options) -> list[Row]:
    """A place with so many snapshots, by `snapshot list` and by awscli's own listing."""
    from muster_tools.lab.s3_store import S3Store

    progress(f"snapshots, a list of {LISTED:,}")
    awscli = peers.awscli()
    with S3Store() as server:
        server.objects.update(_stored(LISTED))
        given = {**rclone.environment(server.url), "ED_DATA": "/nonexistent", "MUSTER_SNAPSHOTS": f"s3://{rclone.BUCKET}/ours"}
        ours = [str(options.binary), "snapshot", "list"]
        theirs = [str(awscli), "s3", "ls", "--recursive", f"s3://{rclone.BUCKET}/ours/"]
        calls = []
        for command in (ours, theirs):  # also the warm-up
            before = len(server.calls)
            cost_of(command, given)
            calls.append(len(server.calls) - before)
        mine, other = pairs(options.pairs, *(lambda command=command: cost_of(command, given, peak=True) for command in (ours, theirs)))
    title, label = f"snapshots, a list of {LISTED:,}", "awscli s3 ls --recursive"
    note = f"{calls[0]:,} API calls, awscli {calls[1]:,}; no TLS"
    of = lambda what, unit=1: ([getattr(one, what) / unit for one in side] for side in (mine, other))
    return [
        Row("snapshots/list-wall", title, "s", label, *of("wall", 1000), Bound(ours=LIST_SECONDS), note=note, headline=True),
        Row(
            "snapshots/list-memory", f"{title}, peak resident", "MiB", label, *of("peak"), Bound(ours=LIST_MIB), note=note, quick=True, headline=True
        ),
    ]


def _stored(count: int) -> dict[str, bytes]:
    """A place's objects: an hour's snapshot after another, of one cluster of three. The data itself is nothing that a list reads."""
    found = {}
    for number in range(1, count + 1):
        manifest = _manifest(number)
        name = f"{CLUSTER}/{manifest['revision']:020}-{manifest['index']:020}-{manifest['instance']}"
        found[f"{rclone.BUCKET}/ours/{name}.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
        found[f"{rclone.BUCKET}/ours/{name}.db"] = b""
    return found


def _manifest(number: int) -> dict:
    """As long as a real one."""
    revision = 1000 * number
    taken = FIRST + timedelta(hours=number)
    stamp = lambda moment: f"{moment.isoformat(timespec='milliseconds')}Z"
    instance = lambda which: f"i-{which + 1:017x}"
    member = lambda which: f"{0x63E12AA28E407B66 + which:016x}"
    url = lambda which, port: f"https://10.20.30.{which + 1}:{port}"
    whose = number % 3
    return {
        "format": 1,
        "cluster": CLUSTER,
        "member": member(whose),
        "instance": instance(whose),
        "etcd": "3.6.16",
        "storage_version": "3.6.0",
        "revision": revision,
        "compact_revision": revision - 500,
        "term": 7,
        "index": revision + 100,
        "size": 104_857_632,
        "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "hash_kv": {"hash": 3_628_877_040, "revision": revision, "compact_revision": revision - 500},
        "members": [
            {
                "id": member(which),
                "name": instance(which),
                "peer_urls": [url(which, 2380)],
                "client_urls": [url(which, 2379)],
                "learner": False,
            }
            for which in range(3)
        ],
        "auth": False,
        "alarms": [],
        "taken_at": stamp(taken),
        "store_date": f"{taken:%a, %d %b %Y %H:%M:%S} GMT",
        "reason": "scheduled",
        "verified": {"level": "digest", "at": stamp(taken + timedelta(seconds=30)), "by": instance(whose)},
    }


def _size(options: Options) -> Row:
    title = "snapshots: the executable with them"
    return Row("snapshots/executable", title, "MiB", "none", [options.binary.stat().st_size / MIB], [], Bound(ours=BINARY_MIB))
