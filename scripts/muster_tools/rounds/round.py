"""One round: nodes are launched, booted, disturbed and healed by a plan, and must then be one cluster."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from muster_tools.demo.ending import Interrupted, Interrupts
from muster_tools.lab.ec2 import Ec2
from muster_tools.lab.etcd import NOT_YET, PEER_PORT
from muster_tools.lab.netns import Hub
from muster_tools.lab.node import Lab, Node
from muster_tools.rounds import evidence
from muster_tools.rounds.faults import Faults
from muster_tools.rounds.plan import Plan

CONVERGE_BOUND = 180
POLL_SECONDS = 0.02
RESTART_SECONDS = 1.0  # what restarts a supervisor that ended by itself waits so long
FOR_GOOD = {64, 65, 72, 73, 77, 78}  # exit codes after which nobody restarts it: the units'

# The product's own waits, shorter than what they wait for may last.
ENVIRONMENT = {"MUSTER_LOG": "debug", "BOOTSTRAP_WAIT": "2", "MUSTER_PROBE_TIMEOUT": "1"}


class Broken(Exception):
    """What must hold did not."""


@dataclass
class Outcome:
    plan: Plan
    struck: Counter[str] = field(default_factory=Counter)  # faults by kind, those that found something to hit
    exits: list[int] = field(default_factory=list)  # of supervisors, by themselves
    etcds: int = 0
    clusters: set[str] = field(default_factory=set)
    healed_after: float = 0.0  # seconds since the round's begin
    converged_after: float = 0.0  # seconds since the healing
    without: int = 0  # instances that did not take part in the founding
    alone: bool = False
    trouble: str = ""
    kept: Path | None = None


@dataclass(frozen=True)
class World:
    """What all rounds of a run share."""

    hub: Hub
    cloud: Ec2
    muster: Path
    etcd: str
    interrupts: Interrupts
    keep: bool


def play(plan: Plan, world: World) -> Outcome:
    environment = {
        **ENVIRONMENT,
        "MUSTER_CLUSTER_SIZE": str(plan.size),
        "MUSTER_BOOTSTRAP_GRACE": str(plan.grace),
        "ETCD_MEMBER_TYPE": plan.member_type,
    }
    outcome, stopped = Outcome(plan), None
    lab = Lab(
        etcd=world.etcd, muster=world.muster, env=environment, keep=world.keep, shared_ec2=world.cloud, hub=world.hub
    )
    with lab:
        nodes = [lab.add_node(launch=False) for _ in range(plan.size)]
        try:
            with Faults(nodes) as faults:
                _Round(plan, outcome, lab, nodes, faults, world.interrupts).play()
        except Interrupted as interruption:  # no failure: nothing is to be kept
            stopped = interruption
        except Broken as broken:
            outcome.trouble = str(broken)
        if outcome.trouble:
            lab.keep, outcome.kept = True, lab.directory
    if stopped is not None:
        raise stopped
    return outcome


class _Round:
    def __init__(
        self, plan: Plan, outcome: Outcome, lab: Lab, nodes: list[Node], faults: Faults, interrupts: Interrupts
    ):
        self._plan = plan
        self._outcome = outcome
        self._lab = lab
        self._nodes = nodes
        self._faults = faults
        self._interrupts = interrupts
        self._booted: set[str] = set()
        self._ended: dict[int, float] = {}  # supervisors that ended by themselves, and when that was seen
        self._events = self._timeline()

    def play(self) -> None:
        begun = time.monotonic()
        while self._events:
            while self._events and self._events[0][0] <= time.monotonic() - begun:
                self._events.pop(0)[1]()
            self._tend()
        healed = time.monotonic()
        self._outcome.healed_after = healed - begun
        try:
            self._await_one_cluster(healed + CONVERGE_BOUND)
        finally:
            self._outcome.converged_after = time.monotonic() - healed
            self._gather_evidence()
        if len(self._outcome.clusters) != 1:
            raise Broken(f"etcds of {len(self._outcome.clusters)} clusters began: {sorted(self._outcome.clusters)}")

    def _timeline(self) -> list[tuple[float, Callable[[], None]]]:
        plan = self._plan
        events: list[tuple[float, Callable[[], None]]] = []
        for node, launch, boot in zip(self._nodes, plan.launches, plan.boots):
            events.append((launch, lambda node=node: self._lab.launch(node)))
            events.append((boot, lambda node=node: self._booted.add(node.address)))
        events += [(fault.begins, lambda fault=fault: self._strike(fault)) for fault in plan.faults]
        return sorted(events, key=lambda event: event[0])

    def _strike(self, fault) -> None:
        heal = self._faults.begin(fault)
        if heal is None:
            return
        self._outcome.struck[fault.kind] += 1
        self._events.append((fault.ends, heal))
        self._events.sort(key=lambda event: event[0])

    def _tend(self) -> None:
        """A moment passes: what may run is started, as the machine's init would."""
        self._interrupts.check()
        for node in self._nodes:
            if node.address in self._booted and not node.runs() and not self._faults.holds_down(node):
                self._start(node)
        time.sleep(POLL_SECONDS)

    def _start(self, node: Node) -> None:
        code = None if node.process is None else node.process.exit_code()
        if code not in (None, -signal.SIGKILL):  # not our doing
            if code in FOR_GOOD:
                raise Broken(f"the supervisor of {node.address} gave up with exit code {code}")
            if node.process.pid not in self._ended:
                self._outcome.exits.append(code)
            if time.monotonic() - self._ended.setdefault(node.process.pid, time.monotonic()) < RESTART_SECONDS:
                return
        node.start()

    def _await_one_cluster(self, deadline: float) -> None:
        while True:
            missing = self._missing()
            if missing is None:
                return
            if time.monotonic() > deadline:
                raise Broken(f"no single cluster {CONVERGE_BOUND} s after all was healed; last: {missing}")
            self._tend()

    def _missing(self) -> str | None:
        """What is not yet as it must be, or None: every node a healthy voter of one cluster, which takes writes."""
        ids = set()
        for node in self._nodes:
            try:
                missing = self._missing_of(node)
                if missing:
                    return f"{node.address} {missing}"
                ids.add(node.etcd.cluster_id())
            except NOT_YET as error:
                return f"{node.address}: {error!r}"
        return None if len(ids) == 1 else f"{len(ids)} clusters: {ids}"

    def _missing_of(self, node: Node) -> str | None:
        if not node.runs():
            return "does not run"
        if not node.etcd.health():
            return "is not healthy"
        members = node.etcd.members()
        if sorted(url for member in members for url in member.peer_urls) != sorted(map(self._peer_url, self._nodes)):
            return f"lists {members}"
        if not all(member.name and not member.learner for member in members):
            return f"sees some not vote: {members}"
        node.etcd.put(node.address, str(self._plan.seed))
        if any(other.etcd.get(node.address) != str(self._plan.seed) for other in self._nodes):
            return "took a value that is not read elsewhere"
        return None

    def _peer_url(self, node: Node) -> str:
        by_name = self._plan.member_type == "host"
        return f"http://{node.instance.private_dns}:{PEER_PORT}" if by_name else node.peer_url

    def _gather_evidence(self) -> None:
        outcome = self._outcome
        outcome.clusters = evidence.cluster_ids(self._nodes)
        outcome.etcds = evidence.etcds_started(self._nodes)
        outcome.without = evidence.founded_without(self._nodes)
        outcome.alone = evidence.founded_alone(self._nodes)
