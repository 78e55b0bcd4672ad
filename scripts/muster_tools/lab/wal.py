"""The cluster id in an etcd's WAL: written when etcd first starts, before it speaks to anyone, and never changed."""

from __future__ import annotations

import struct
from pathlib import Path

CRC, METADATA = 4, 1  # the types of a WAL's first two records (etcd's wal.go)
HEAD_BYTES = 4096  # both are in there; the file is 64 MiB


def cluster_ids(directory: Path) -> set[str]:
    """Of every WAL anywhere below, also of those moved aside."""
    heads = []
    for file in directory.rglob("*.wal"):
        with open(file, "rb") as wal:
            heads.append(wal.read(HEAD_BYTES))
    return {found for head in heads if (found := cluster_id(head)) is not None}


def cluster_id(wal: bytes) -> str | None:
    """None when etcd was killed before it had written it."""
    offset = 0
    for kind in (CRC, METADATA):
        if len(wal) < offset + 8:
            return None
        # A record: its length in the lower 56 bits, in the upper 8 (if the first is set) how many bytes fill it up.
        (head,) = struct.unpack_from("<Q", wal, offset)
        length, padding = head & (1 << 56) - 1, head >> 56 & 7 if head >> 63 else 0
        record = _fields(wal[offset + 8 : offset + 8 + length])
        if record.get(1) != kind:
            return None
        offset += 8 + length + padding
    metadata = record.get(3)
    found = _fields(metadata).get(2) if isinstance(metadata, bytes) else None
    return format(found, "x") if isinstance(found, int) else None


def _fields(message: bytes) -> dict[int, int | bytes]:
    """A protobuf message of numbers and bytes."""
    fields: dict[int, int | bytes] = {}
    place = 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            fields[key >> 3] = varint()
        else:
            length = varint()
            fields[key >> 3] = message[place : place + length]
            place += length
    return fields
