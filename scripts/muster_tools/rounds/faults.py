"""How each kind of fault is done to running nodes. A fault returns what heals it, or None if there was nothing to hit."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from typing import Callable, Optional

from muster_tools.lab.delay_proxy import DelayProxy
from muster_tools.lab.etcd import PEER_PORT
from muster_tools.lab.netns import Undo
from muster_tools.lab.node import Node
from muster_tools.rounds.plan import Fault

Heal = Optional[Undo]


class Faults:
    """The faults of one round; leaving its block ends the proxies that delays need."""

    def __init__(self, nodes: list[Node]):
        self._nodes = nodes
        self._cleanup = ExitStack()
        self._proxies: dict[str, DelayProxy] = {}
        self._down: dict[str, int] = {}  # nodes that are to stay down, and for how many faults

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def begin(self, fault: Fault) -> Heal:
        hit = [self._nodes[place] for place in fault.nodes]
        others = [node for node in self._nodes if node not in hit]
        return KINDS[fault.kind](self, fault, hit, others)

    def holds_down(self, node: Node) -> bool:
        """Whether it is not to be started, because a fault keeps it down."""
        return self._down.get(node.address, 0) > 0

    # Between nodes.

    def _partition(self, _: Fault, hit: list[Node], others: list[Node]) -> Heal:
        return _all([*_deaf(hit, others), *_deaf(others, hit)])

    def _one_way(self, _: Fault, hit: list[Node], others: list[Node]) -> Heal:
        return _all(_deaf(hit, others))

    def _refuse(self, _: Fault, hit: list[Node], others: list[Node]) -> Heal:
        there = [node.host.refusing(*(other.host for other in others)) for node in hit]
        back = [node.host.refusing(*(other.host for other in hit)) for node in others]
        return _all([*there, *back])

    def _loss(self, fault: Fault, hit: list[Node], _: list[Node]) -> Heal:
        everyone = [node.host for node in self._nodes]
        return _all([node.host.losing(fault.strength, *everyone) for node in hit])

    def _delay(self, fault: Fault, hit: list[Node], _: list[Node]) -> Heal:
        return _all([self._proxy(node).delay(fault.strength) for node in hit])

    def _proxy(self, node: Node) -> DelayProxy:
        if node.address not in self._proxies:
            self._proxies[node.address] = self._cleanup.enter_context(DelayProxy(node.host, PEER_PORT))
        return self._proxies[node.address]

    # On one node.

    def _kill(self, _: Fault, hit: list[Node], __: list[Node]) -> Heal:
        (node,) = hit
        if not node.runs():
            return None
        node.kill()
        return self._keep_down(node)

    def _power(self, _: Fault, hit: list[Node], __: list[Node]) -> Heal:
        (node,) = hit
        if not node.runs():
            return None
        reconnect = node.host.dark()
        node.power_off()
        return _all([reconnect, self._keep_down(node)])

    def _keep_down(self, node: Node) -> Undo:
        """The round starts it again once no fault holds it."""
        self._down[node.address] = self._down.get(node.address, 0) + 1

        def release() -> None:
            self._down[node.address] -= 1

        return release

    def _freeze(self, fault: Fault, hit: list[Node], others: list[Node]) -> Heal:
        (node,) = hit
        pids = node.etcd_pids()
        return _stopped(pids[0]) if pids else self._stall(fault, hit, others)

    def _stall(self, _: Fault, hit: list[Node], __: list[Node]) -> Heal:
        (node,) = hit
        return _stopped(node.process.pid) if node.runs() else None

    def _no_ec2(self, _: Fault, hit: list[Node], __: list[Node]) -> Heal:
        (node,) = hit
        if node.front is None:
            return None
        return node.host.without(node.front.address, node.front.port)


KINDS: dict[str, Callable[[Faults, Fault, list[Node], list[Node]], Heal]] = {
    "partition": Faults._partition,
    "one-way": Faults._one_way,
    "refuse": Faults._refuse,
    "loss": Faults._loss,
    "delay": Faults._delay,
    "kill": Faults._kill,
    "power": Faults._power,
    "freeze": Faults._freeze,
    "stall": Faults._stall,
    "no-ec2": Faults._no_ec2,
}


def _deaf(hearers: list[Node], others: list[Node]) -> list[Undo]:
    return [node.host.deaf_to(*(other.host for other in others)) for node in hearers]


def _all(undoes: list[Undo]) -> Undo:
    def heal() -> None:
        for undo in undoes:
            undo()

    return heal


def _stopped(pid: int) -> Heal:
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:  # it has just ended
        return None

    def go_on() -> None:
        with suppress(ProcessLookupError):  # killed meanwhile
            os.kill(pid, signal.SIGCONT)

    return go_on
