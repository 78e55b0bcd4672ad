"""An S3 in memory that treats conditional writes and listings as one of the stores does that people run, by its name in STORES.

What each does was measured on the store itself (the releases are named there). A signature must have SigV4's form, and is not
verified: moto does that. A call happens as a whole, so a store that honours a condition lets one of two writes through.
What can go wrong beside that is in FAULTS: `store.fail("answer lost", times=1)`, `store.heal()`.

    with S3Store("radosgw 18") as store: ...                       # store.url; store.objects; store.writes
    PYTHONPATH=scripts python3 -m muster_tools.lab.s3_store --like rclone                  # prints its URL; runs until interrupted
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass
from xml.sax.saxutils import escape

from muster_tools.lab.http_server import HttpServer, Reply, Request
from muster_tools.lab.instance import REGION

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
    longest_page: int | None = 1000  # keys; None: as many as were asked for, 1000 unless told
    encodes: str = "%20"  # a blank in a listing with encoding-type=url; "": it says that it encodes, and does not; "-": it does not say so, either
    gives_token: bool = True  # a truncated page has the token of the next
    keeps_metadata: bool = True  # x-amz-meta-* comes back
    complete_honours: bool = True  # CompleteMultipartUpload heeds If-None-Match


STORES = {
    "AWS": Likeness(),
    "radosgw 16": Likeness(compares_quotes=True, gone=412, complete_honours=False),  # 16.2.15, Debian 12
    "radosgw 18": Likeness(compares_quotes=True, gone=412, complete_honours=False),  # 18.2.7, Debian 13
    "radosgw 20": Likeness(longest_page=None),  # 20.2.4
    "ministack": Likeness(region="us-east-1", longest_page=None),  # 1.5.33
    "rclone": Likeness(honours_absent=False, honours_match=False, encodes="+", keeps_metadata=False, complete_honours=False),  # 1.75.2
    "nanio": Likeness(honours_absent=False, honours_match=False, complete_honours=False),  # 0.1.7
    "pys3local": Likeness(honours_absent=False, honours_match=False, encodes="-", gives_token=False),  # 0.2.1
    "localbucket": Likeness(honours_match=False),  # 1.2.1
    "s3s-fs": Likeness(gone=412, encodes="", longest_page=None),  # 0.14.1; of several writes at once it lets some through, which this one does not
    # Nobody's, as far as is known: a proxy that strips too much, a disk that lies.
    "refuses all": Likeness(refuses_all=True),
    "keeps nothing": Likeness(keeps=False),
}


# What `fail` takes: which calls it is about, by S3's names, and what comes of them.
FAULTS = {
    "throttles": "any call is 503 SlowDown",
    "put cut": "the connection is dropped when half of a body has come",
    "answer lost": "a write is done, and the connection dropped without an answer",
    "truncates": "of an object the last byte is not kept",
    "error in 200": "CompleteMultipartUpload is 200 with InternalError inside, and nothing was made",
    "no put": "403 to writes",
    "no get": "403 to reads, HEAD and GET",
    "no list": "403 to listings, and to reads of what is not there",
    "no delete": "403 to DELETE",
    "list cut": "the second page of a listing is 500",
    "list without token": "a truncated page has no token",
    "list repeats": "the second page is the first again, with a token of its own",
    "list out of order": "two keys of a page are exchanged",
    "list of others": "a page has a key of another prefix at its end",
    "read cut": "of an object one half is sent, and the connection dropped",
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
        self.calls: list[str] = []  # "PUT bucket/key", in order, each as it was answered or dropped
        self._refused: set[tuple[str, str]] = set()
        self._faults: dict[str, float] = {}  # how often still
        self._metadata: dict[str, list[tuple[str, str]]] = {}
        self._uploads: dict[str, tuple[dict[int, bytes], list[tuple[str, str]]]] = {}
        self._guard = threading.Lock()
        self._server = HttpServer(address, port, self._answer, most_bytes=self._most_bytes)

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

    def fail(self, fault: str, times: float = math.inf) -> None:
        """From now on that of FAULTS, so often."""
        if fault not in FAULTS:
            raise ValueError(f"{fault}: not one of {', '.join(FAULTS)}")
        self._faults[fault] = times

    def heal(self) -> None:
        self._refused.clear()
        self._faults.clear()

    def uploads(self) -> int:
        """Uploads in parts that were neither completed nor aborted."""
        return len(self._uploads)

    def _fails(self, fault: str) -> bool:
        left = self._faults.get(fault, 0)
        self._faults[fault] = left - 1
        return left > 0

    def _most_bytes(self, head: Request) -> int | None:
        if head.method != "PUT" or not (half := int(head.header("Content-Length") or 0) // 2):
            return None
        with self._guard:
            return half if self._fails("put cut") else None

    def _answer(self, request: Request) -> Reply | None:
        signed = SIGNED.fullmatch(request.header("Authorization") or "")
        if signed is None:
            return error(403, "AccessDenied", "Access Denied")
        if self.like.region not in (None, signed[1]):
            where = [("x-amz-bucket-region", self.like.region)]
            return error(301, "PermanentRedirect", "The bucket must be addressed at another endpoint.", where)
        path, _, query = request.target.partition("?")
        key = urllib.parse.unquote(path).lstrip("/")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        with self._guard:
            self.calls.append(f"{request.method} {key}")
            reply = self._act(request, key, asked)
            if request.method in ("PUT", "POST") and reply.status == 200 and self._fails("answer lost"):
                return None
        if request.method == "HEAD":
            # As long as the object would be, and without it.
            length = next((value for name, value in reply.headers if name == "x-length"), "0")
            head = [(name, value) for name, value in reply.headers if name != "x-length"]
            return HeadReply(reply.status, b"", head, reply.content_type, length=length)
        return reply

    def _act(self, request: Request, key: str, asked: dict[str, str]) -> Reply:
        denied = error(403, "AccessDenied", "Access Denied")
        method = request.method
        if self._fails("throttles"):
            return error(503, "SlowDown", "Please reduce your request rate.")
        if method == "GET" and "list-type" in asked:
            return denied if self._fails("no list") else self._list(key.rstrip("/"), asked)
        if method in ("GET", "HEAD"):
            self.reads += 1
            if self._fails("no get") or (key not in self.objects and self._fails("no list")):
                return denied
            return self._read(key, method)
        if method in ("PUT", "POST") and self._fails("no put"):
            return denied
        if method == "DELETE":
            return denied if self._fails("no delete") else self._delete(key, asked)
        sent = hashlib.sha256(request.body).hexdigest()
        if request.header("x-amz-content-sha256") not in (sent, "UNSIGNED-PAYLOAD"):
            return error(400, "XAmzContentSHA256Mismatch", "The provided x-amz-content-sha256 does not match what was computed.")
        if "uploads" in asked:
            return self._create(key, request)
        if "uploadId" in asked:
            return self._part_or_end(key, request, asked)
        if method == "PUT":
            reply = self._write(key, request)
            conditions = (request.header("If-None-Match"), request.header("If-Match"))
            self.writes.append(Write(time.monotonic(), key, *conditions, reply.status))
            return reply
        return error(501, "NotImplemented", f"{method} is not what this server is for")

    def _read(self, key: str, method: str) -> Reply:
        body = self.objects.get(key)
        if body is None:
            return error(404, "NoSuchKey", "The specified key does not exist.")
        headers = [("ETag", f'"{etag(body)}"'), *self._metadata.get(key, [])]
        if method == "HEAD":
            return Reply(200, b"", [*headers, ("x-length", str(len(body)))], content_type="application/json")
        cut = len(body) // 2 if self._fails("read cut") else None
        return Reply(200, body, headers, content_type="application/json", cut_after=cut)

    def _delete(self, key: str, asked: dict[str, str]) -> Reply:
        if "uploadId" in asked:
            known = self._uploads.pop(asked["uploadId"], None)
            return Reply(204) if known else error(404, "NoSuchUpload", "The specified upload does not exist.")
        self.objects.pop(key, None)
        self._metadata.pop(key, None)
        return Reply(204)

    def _list(self, bucket: str, asked: dict[str, str]) -> Reply:
        like, prefix, after = self.like, asked.get("prefix", ""), asked.get("continuation-token", "")
        if after and self._fails("list cut"):
            return error(500, "InternalError", "We encountered an internal error. Please try again.")
        if after and self._fails("list repeats"):
            after = ""
        below = f"{bucket}/"
        keys = sorted(key.removeprefix(below) for key in self.objects if key.startswith(below + prefix))
        keys = [key for key in keys if key > after]
        longest = int(asked.get("max-keys", 1000))
        longest = longest if like.longest_page is None else min(longest, like.longest_page)
        page, more = keys[:longest], len(keys) > longest
        token = page[-1] if more else ""
        if len(page) > 1 and self._fails("list out of order"):
            page[0], page[1] = page[1], page[0]
        if self._fails("list of others"):
            page.append("~not-asked-for")
        encodes = like.encodes if "encoding-type" in asked else "-"
        written = {"%20": urllib.parse.quote, "+": urllib.parse.quote_plus}.get(encodes, escape)
        item = "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{}</Size></Contents>"
        text = f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        text += "" if encodes == "-" else "<EncodingType>url</EncodingType>"
        if more and like.gives_token and not self._fails("list without token"):
            text += f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
        text += "".join(item.format(written(key), len(self.objects.get(below + key, b""))) for key in page)
        return Reply(200, f"{text}</ListBucketResult>".encode(), content_type="application/xml")

    def _create(self, key: str, request: Request) -> Reply:
        made = f"upload/{len(self.calls)}"
        self._uploads[made] = ({}, metadata(request))
        text = f"<InitiateMultipartUploadResult><UploadId>{made}</UploadId></InitiateMultipartUploadResult>"
        return Reply(200, text.encode(), content_type="application/xml")

    def _part_or_end(self, key: str, request: Request, asked: dict[str, str]) -> Reply:
        upload = self._uploads.get(asked["uploadId"])
        if upload is None:
            return error(404, "NoSuchUpload", "The specified upload does not exist.")
        parts, kept = upload
        if request.method == "PUT":
            parts[int(asked["partNumber"])] = request.body
            return Reply(200, b"", [("ETag", f'"{etag(request.body)}"')])
        named = re.findall(r"<ETag>(?:&quot;|\")?(\w+)(?:&quot;|\")?</ETag><PartNumber>(\d+)<", request.body.decode())
        if [(etag(parts.get(int(number), b"")), number) for _, number in named] != named or not named:
            return error(400, "InvalidPart", "One or more of the specified parts could not be found.")
        if self._fails("error in 200"):
            return error(200, "InternalError", "We encountered an internal error. Please try again.")
        if self.like.complete_honours and request.header("If-None-Match") == "*" and key in self.objects:
            return error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        del self._uploads[asked["uploadId"]]
        self._keep(key, b"".join(parts[int(number)] for _, number in named), kept)
        text = f"  <CompleteMultipartUploadResult><Key>{escape(key)}</Key></CompleteMultipartUploadResult>"
        return Reply(200, text.encode(), content_type="application/xml")

    def _keep(self, key: str, body: bytes, kept: list[tuple[str, str]]) -> None:
        if self.like.keeps:
            self.objects[key] = body[:-1] if self._fails("truncates") else body
            self._metadata[key] = kept if self.like.keeps_metadata else []

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
        self._keep(key, request.body, metadata(request))
        return Reply(200, b"", [("ETag", f'"{etag(request.body)}"')], content_type="application/xml")


@dataclass
class HeadReply(Reply):
    """A head whose length is that of what it would be the head of."""

    length: str = "0"

    def _head(self) -> bytes:
        return super()._head().replace(b"Content-Length: 0\r\n", f"Content-Length: {self.length}\r\n".encode())


def metadata(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.headers if name.lower().startswith("x-amz-meta-")]


def etag(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def error(status: int, code: str, message: str, headers: list[tuple[str, str]] | None = None) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, text.encode(), headers or [], content_type="application/xml")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--like", choices=STORES, default="AWS")
    arguments.add_argument("--fails", choices=FAULTS, action="append", default=[])
    arguments.add_argument("--address", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=0)
    options = arguments.parse_args()
    with S3Store(options.like, options.address, options.port) as store:
        for fault in options.fails:
            store.fail(fault)
        print(f"{store.url} (region {store.like.region or REGION})", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
