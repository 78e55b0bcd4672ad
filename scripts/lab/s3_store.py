"""An S3 in memory that treats conditional writes as one of the stores does that people run, by its name in STORES.

What each does was measured on the store itself (the releases are named there). A signature must have SigV4's form, and is not
verified: moto does that. A call happens as a whole, so a store that honours a condition lets one of two writes through.

    with S3Store("radosgw 18") as store: ...                       # store.url; store.objects; store.writes
    python3 scripts/lab/s3_store.py --like rclone                  # prints its URL; runs until interrupted
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.http_server import HttpServer, Reply, Request
from lab.instance import REGION

SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/ ]+/\d{8}/([^/ ]+)/s3/aws4_request, ?SignedHeaders=[^ ]*host[^ ]*, ?Signature=[0-9a-f]{64}")


@dataclass(frozen=True)
class Likeness:
    """AWS's own ways, but for what is set."""

    honours_absent: bool = True  # If-None-Match: * on an object that is there is 412
    honours_match: bool = True  # If-Match of another ETag is 412
    compares_quotes: bool = False  # If-Match of the right ETag in quotes, as it was given out, is 412; without them it is taken
    gone: int = 404  # If-Match on an object that isn't there: NoSuchKey, or 412
    refuses_all: bool = False  # every conditional write is 412
    keeps: bool = True  # what was written can be read
    region: str | None = None  # 301 to whoever signs for another


STORES = {
    "AWS": Likeness(),
    "radosgw 16": Likeness(compares_quotes=True, gone=412),  # 16.2.15, Debian 12
    "radosgw 18": Likeness(compares_quotes=True, gone=412),  # 18.2.7, Debian 13
    "radosgw 20": Likeness(),  # 20.2.4
    "ministack": Likeness(region="us-east-1"),  # 1.5.33
    "rclone": Likeness(honours_absent=False, honours_match=False),  # 1.75.2
    "nanio": Likeness(honours_absent=False, honours_match=False),  # 0.1.7
    "pys3local": Likeness(honours_absent=False, honours_match=False),  # 0.2.1
    "localbucket": Likeness(honours_match=False),  # 1.2.1
    # Nobody's, as far as is known: a proxy that strips too much, a disk that lies.
    "refuses all": Likeness(refuses_all=True),
    "keeps nothing": Likeness(keeps=False),
}


@dataclass(frozen=True)
class Write:
    """One PUT, as it came and was answered."""

    at: float  # time.monotonic()
    key: str
    if_none_match: str | None
    if_match: str | None
    status: int


class S3Store:
    """One bucket per first part of a path, made by its first use. `objects` is by "bucket/key"; `like` can be set anew."""

    def __init__(self, name: str = "AWS", address: str = "127.0.0.1", port: int = 0):
        self.like = STORES[name]
        self.objects: dict[str, bytes] = {}
        self.writes: list[Write] = []
        self.reads = 0
        self._refused: set[tuple[str, str]] = set()
        self._guard = threading.Lock()
        self._server = HttpServer(address, port, self._answer)

    url = property(lambda self: self._server.url)

    def start(self) -> S3Store:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop()

    def __enter__(self) -> S3Store:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def refuse(self, key: str, condition: str) -> None:
        """From now on 412 to every write there with this condition, "If-Match" or "If-None-Match"."""
        self._refused.add((key, condition))

    def heal(self) -> None:
        self._refused.clear()

    def _answer(self, request: Request) -> Reply:
        signed = SIGNED.fullmatch(request.header("Authorization") or "")
        if signed is None:
            return error(403, "AccessDenied", "Access Denied")
        if self.like.region not in (None, signed[1]):
            where = [("x-amz-bucket-region", self.like.region)]
            return error(301, "PermanentRedirect", "The bucket must be addressed at another endpoint.", where)
        key = urllib.parse.unquote(request.target.partition("?")[0]).lstrip("/")
        with self._guard:
            if request.method == "GET":
                self.reads += 1
                return self._read(key)
            if request.method == "PUT":
                reply = self._write(key, request)
                conditions = (request.header("If-None-Match"), request.header("If-Match"))
                self.writes.append(Write(time.monotonic(), key, *conditions, reply.status))
                return reply
        return error(501, "NotImplemented", f"{request.method} is not what this server is for")

    def _read(self, key: str) -> Reply:
        body = self.objects.get(key)
        if body is None:
            return error(404, "NoSuchKey", "The specified key does not exist.")
        return Reply(200, body, [("ETag", f'"{etag(body)}"')], content_type="application/json")

    def _write(self, key: str, request: Request) -> Reply:
        like, held = self.like, self.objects.get(key)
        absent, match = request.header("If-None-Match"), request.header("If-Match")
        refused = error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        conditions = {(key, name) for name, value in (("If-None-Match", absent), ("If-Match", match)) if value}
        if conditions and (like.refuses_all or conditions & self._refused):
            return refused
        if absent == "*" and held is not None and like.honours_absent:
            return refused
        if match is not None and like.honours_match:
            if held is None:
                return refused if like.gone == 412 else error(404, "NoSuchKey", "The specified key does not exist.")
            if (match if like.compares_quotes else match.strip('"')) != etag(held):
                return refused
        if like.keeps:
            self.objects[key] = request.body
        return Reply(200, b"", [("ETag", f'"{etag(request.body)}"')], content_type="application/xml")


def etag(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def error(status: int, code: str, message: str, headers: list[tuple[str, str]] | None = None) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, text.encode(), headers or [], content_type="application/xml")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--like", choices=STORES, default="AWS")
    arguments.add_argument("--address", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=0)
    options = arguments.parse_args()
    with S3Store(options.like, options.address, options.port) as store:
        print(f"{store.url} (region {store.like.region or REGION})", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
