"""What the screen shows: each node as its own log and its own etcd describe it, followed in the background."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Callable

from muster_tools.lab.etcd import NOT_YET, EtcdClient
from muster_tools.lab.node import Node

MOVING_POLL_SECONDS = 0.05  # fine enough for times printed in hundredths
SETTLED_POLL_SECONDS = 0.5  # each is a write to the log of a 3.4, whose /health asks for consensus
ANSWER_SECONDS = 0.5  # an etcd without a leader answers late or never; the log must be read on meanwhile

LOG_LINE = re.compile(r"(\S+)Z (\w+) +etcd-muster: (.*)")
PHASES = [
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"this is ", "looking"),
        (r"(hold|propose|chosen|bootstrap alone|start new|start existing|resume|quarantine|halt):", r"\1"),
        (r"(add self|update self):", r"\1"),
        (r"(remove member) ", r"\1"),
        (r"member \w+ is removed", "removed it"),
        (r"added as learner", "added"),
        (r"etcd runs as", "etcd started"),
        (r"member \w+ is in sync and promoted", "promoted"),
        (r"member \w+ is healthy", "healthy"),
        (r"member \w+ is not healthy", "unhealthy"),
        (r".*: etcd yields$", "yield"),
        (r"etcd (exited|was ended)", "etcd ended"),
        (r"(etcd )?stopped$", "stopped"),
    )
]
UNREMARKABLE = re.compile(r"this is ")  # known from the table


def phase_of(text: str) -> str | None:
    """The word for what a supervisor's line says; None when it says nothing about its progress."""
    for pattern, phase in PHASES:
        found = pattern.match(text)
        if found:
            return found.expand(phase)
    return None


class Repeating:
    """A thread that calls `tick` until stopped; `tick` returns the pause before the next call, in seconds.

    What it raises ends it and is kept for `check`: a background failure must fail the demo, not freeze its screen.
    """

    def __init__(self, tick: Callable[[], float]):
        self._tick = tick
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def _repeat(self) -> None:
        try:
            while not self._stopping.wait(self._tick()):
                pass
        except Exception as error:  # handed to the main thread
            self._error = error

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@dataclass(frozen=True)
class Decision:
    at: float  # Unix time, by the supervisor's clock
    instance: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What a node's etcd says of itself."""

    member: str  # hex
    role: str  # leader, voter, learner; "-" without a leader
    healthy: bool


class Actor:
    """One node on the stage."""

    def __init__(self, node: Node, tell: Callable[[Decision, bool], None]):
        self.node = node
        self.instance = node.instance.id
        self.phase = "launched"
        self.member = ""  # the last that was known
        self.role = "-"
        self.healthy_voter = False
        self.began: float | None = None  # monotonic, as the next two
        self.first_healthy: float | None = None
        self.ended: float | None = None
        self._tell = tell
        self._asked = EtcdClient(node.address, timeout=ANSWER_SECONDS)
        self._read = 0  # bytes of the log
        self._following = Repeating(self._follow)

    def start(self) -> None:
        self.phase = "starting"
        self.began = time.monotonic()
        self.node.start()

    def bow_out(self, phase: str) -> None:
        """Its instance is no more."""
        self.stop_following()
        self._read_log()  # what it said last
        self.phase, self.role, self.healthy_voter = phase, "-", False
        self.ended = time.monotonic()

    def check(self) -> None:
        self._following.check()

    def stop_following(self) -> None:
        self._following.stop()

    def exit_code(self) -> int | None:
        """The supervisor's; None while it runs, and before it was started."""
        return None if self.node.process is None else self.node.process.exit_code()

    def last_words(self) -> str:
        """What is worth quoting when the supervisor has ended: its own last line rather than etcd's."""
        lines = self.node.log_text().splitlines()
        own = [line for line in lines if "etcd-muster: " in line]
        return (own or lines or ["it said nothing"])[-1].strip()

    def seconds_up(self) -> float | None:
        return None if self.began is None else (self.ended or time.monotonic()) - self.began

    def seconds_to_healthy(self) -> float | None:
        return None if self.first_healthy is None else self.first_healthy - self.began

    def _follow(self) -> float:
        self._read_log()
        code = self.exit_code()
        if code is not None:
            self.phase = f"exited {code}"
        answer = self._ask() if self.began is not None else None
        self.role = answer.role if answer else "-"
        self.member = answer.member if answer else self.member
        self.healthy_voter = answer is not None and answer.healthy and answer.role in ("leader", "voter")
        if self.healthy_voter and self.first_healthy is None:
            self.first_healthy = time.monotonic()
        return SETTLED_POLL_SECONDS if self.healthy_voter else MOVING_POLL_SECONDS

    def _read_log(self) -> None:
        with open(self.node.log, "rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")
        self._read += len(whole[0]) + len(whole[1])
        for line in whole[0].decode(errors="replace").splitlines():
            found = LOG_LINE.fullmatch(line)
            if found:
                self._hear(*found.groups())

    def _hear(self, stamp: str, level: str, text: str) -> None:
        self.phase = phase_of(text) or self.phase
        if not UNREMARKABLE.match(text):
            at = datetime.fromisoformat(f"{stamp}+00:00").timestamp()
            self._tell(Decision(at, self.instance, text), level != "INFO")

    def _ask(self) -> Answer | None:
        try:
            status = self._asked.status()
            own, leader = status["header"]["member_id"], status.get("leader", "0")
            member = format(int(own), "x")
            if status.get("isLearner"):
                return Answer(member, "learner", healthy=False)
            if leader == "0":
                return Answer(member, "-", healthy=False)
            return Answer(member, "leader" if leader == own else "voter", self._asked.health())
        except (*NOT_YET, ValueError):  # ValueError: an answer cut short by etcd's end
            return None


class Stage:
    """The nodes to show, the act they are in, and what their supervisors decided."""

    def __init__(self) -> None:
        self.title = ""
        self.act = ""
        self.actors: list[Actor] = []
        self.decisions: list[Decision] = []
        self.origin = time.time()
        self._warned_by: dict[str, str] = {}

    def enter(self, node: Node) -> Actor:
        actor = Actor(node, self._tell)
        self.actors.append(actor)
        return actor

    def clear_the_gone(self) -> None:
        """Rows of instances that ended in earlier rounds."""
        self.actors = [actor for actor in self.actors if actor.ended is None]

    def present(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.ended is None]

    def close(self) -> None:
        for actor in self.present():
            actor.stop_following()

    def _tell(self, decision: Decision, is_warning: bool) -> None:
        # Called by the actors' threads: single operations on a list and a dict need no lock.
        if is_warning and self._warned_by.setdefault(decision.text, decision.instance) != decision.instance:
            return  # what every node warns of in the same words is shown once
        self.decisions.append(decision)
