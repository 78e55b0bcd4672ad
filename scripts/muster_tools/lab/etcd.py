"""Asking one etcd: the JSON gateway on its client port, and the few plain answers of its peer port."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any

CLIENT_PORT = 2379
PEER_PORT = 2380


# From 3.5.28 and 3.6.9 on member lists and status want a user, too.
WANTS_A_TOKEN = (b"user name is empty", b"invalid auth token")


class EtcdError(Exception):
    """etcd answered, and not with success."""

    def __init__(self, status: int, body: bytes):
        super().__init__(f"{status} {body.decode(errors='replace').strip()}")
        self.status = status


# What asking an etcd that is down, starting, or without quorum raises: waits read it as "not yet".
NOT_YET = (OSError, http.client.HTTPException, EtcdError)


@dataclass(frozen=True)
class Member:
    id: str  # hex, as etcd prints it
    name: str  # empty until it has started
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool


class EtcdClient:
    """No retries and a short bound: what it says is what etcd says now. A port with a context is https."""

    def __init__(
        self,
        address: str,
        client_port: int = CLIENT_PORT,
        peer_port: int = PEER_PORT,
        timeout: float = 2.0,
        client_tls: ssl.SSLContext | None = None,
        peer_tls: ssl.SSLContext | None = None,
        user: tuple[str, str] | None = None,
    ):
        self.address = address
        self.client_port = client_port
        self.peer_port = peer_port
        self.timeout = timeout
        self.client_tls = client_tls
        self.peer_tls = peer_tls
        self.user = user  # and password: logged in where etcd asks for it
        # Of every request; a token goes here. By this one etcd knows what comes through its gateway, which else would be
        # the user in its own certificate's CommonName (etcd's AuthInfoFromTLS).
        self.headers = {"Accept": "*/*"}

    # The client port.

    def status(self) -> dict[str, Any]:
        """In etcd's words: header.cluster_id, header.member_id, leader, version, isLearner, …; ids are decimal."""
        return self.post("/v3/maintenance/status", {})

    def members(self, linearizable: bool = True) -> list[Member]:
        """Linearizable fails without quorum on 3.5; 3.4 ignores the word and may answer with old news."""
        answer = self.post("/v3/cluster/member/list", {"linearizable": True} if linearizable else {})
        return [_member(entry) for entry in answer.get("members", [])]

    def cluster_id(self) -> str:
        return _hex(self.status()["header"]["cluster_id"])

    def member_id(self) -> str:
        return _hex(self.status()["header"]["member_id"])

    def is_leader(self) -> bool:
        status = self.status()
        return status.get("leader") == status["header"]["member_id"]

    def put(self, key: str, value: str) -> None:
        self.post("/v3/kv/put", {"key": _encode(key), "value": _encode(value)})

    def get(self, key: str, serializable: bool = False) -> str | None:
        """None when there is no such key. Serializable asks this node alone, whatever it knows."""
        found = self.post("/v3/kv/range", {"key": _encode(key), "serializable": serializable}).get("kvs", [])
        return base64.b64decode(found[0].get("value", "")).decode() if found else None

    def commit(self) -> None:
        """All that this member has applied is in its database from here on: who asks for a hash is told that of a commit.

        Before 3.5.3 etcd may else lack it after a kill: the index it stands at can be committed before the write itself is, and
        that entry of the WAL isn't applied again (etcd#13766).
        """
        self.post("/v3/maintenance/hash", {})

    def health(self) -> bool:
        """By etcd's own /health; False also when it answers 503, an error when it does not answer.

        Until 3.4 each /health is an entry of the raft log, over which 3.6 doesn't come up: there a read through the quorum counts.
        """
        if self.release() < (3, 5):
            self.get("health")
            return "leader" in self.status()
        status, body = self.request("GET", "/health", self.client_port)
        return status == 200 and json.loads(body)["health"] in ("true", True)

    def release(self) -> tuple[int, ...]:
        """(3, 6, 16)"""
        status, body = self.request("GET", "/version", self.client_port)
        if status != 200:
            raise EtcdError(status, body)
        return tuple(int(number) for number in json.loads(body)["etcdserver"].split("."))

    def metric(self, name: str) -> float:
        """The sum of this counter over all its labels; 0 where it isn't told."""
        _, text = self.request("GET", "/metrics", self.client_port)
        rows = (line.rpartition(" ") for line in text.decode().splitlines() if line.startswith(name))
        return sum(float(value) for series, _, value in rows if series.partition("{")[0] == name)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Any other call of the JSON gateway, e.g. /v3/cluster/member/remove."""
        status, answer = self._post(path, body)
        if self.user is not None and any(words in answer for words in WANTS_A_TOKEN):
            self.log_in()
            status, answer = self._post(path, body)
        if status != 200:
            raise EtcdError(status, answer)
        return json.loads(answer)

    def log_in(self) -> str:
        """A new token, kept for what follows."""
        self.log_out()
        name, password = self.user
        status, answer = self._post("/v3/auth/authenticate", {"name": name, "password": password})
        if status != 200:
            raise EtcdError(status, answer)
        self.headers["Authorization"] = json.loads(answer)["token"]
        return self.headers["Authorization"]

    def log_out(self) -> None:
        """Forget the token: it ends with the etcd that gave it, and 3.4 logs one that it refuses."""
        self.headers.pop("Authorization", None)

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        question = json.dumps(body).encode()
        status, answer = self.request("POST", path, self.client_port, question)
        if status == 404 and not answer.startswith(b"{"):  # until 3.3 the gateway is elsewhere
            return self.request("POST", path.replace("/v3/", "/v3beta/", 1), self.client_port, question)
        return status, answer

    # The peer port: it answers without quorum, and before the first election.

    def peer_members(self) -> list[Member]:
        return [_member(entry) for entry in json.loads(self._peer("/members"))]

    def peer_version(self) -> dict[str, str]:
        """{"etcdserver": …, "etcdcluster": "not_decided" until a first election}"""
        return json.loads(self._peer("/version"))

    def _peer(self, path: str) -> bytes:
        status, body = self.request("GET", path, self.peer_port)
        if status != 200:
            raise EtcdError(status, body)
        return body

    def request(self, method: str, path: str, port: int, body: bytes | None = None) -> tuple[int, bytes]:
        tls = self.peer_tls if port == self.peer_port else self.client_tls
        if tls is None:
            connection = http.client.HTTPConnection(self.address, port, timeout=self.timeout)
        else:
            connection = http.client.HTTPSConnection(self.address, port, timeout=self.timeout, context=tls)
        try:
            connection.request(method, path, body, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _member(entry: dict[str, Any]) -> Member:
    """Both spellings: the gateway's ID/peerURLs (zero fields left out) and the peer port's id/peerURLs."""
    return Member(
        id=_hex(entry.get("ID", entry.get("id"))),
        name=entry.get("name", ""),
        peer_urls=tuple(entry.get("peerURLs") or ()),
        client_urls=tuple(entry.get("clientURLs") or ()),
        learner=bool(entry.get("isLearner", False)),
    )


def _hex(number: str | int) -> str:
    return format(int(number), "x")


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
