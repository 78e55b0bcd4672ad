"""Replaces every node of a cluster of three, several times over, under constant reads and writes, and checks the history.

Each replacement is what an operator, or an Auto Scaling group, does: the old instance is stopped and terminated, a new one is
launched, and joins. At the end every key is read once more, and the whole history is checked for linearizability: an
acknowledged write that is lost, or a stale read, is a violation. Exit code 0: none.
"""

from __future__ import annotations

import http.client
import random
import signal
import statistics
import threading
import time

from muster_tools import command
from muster_tools.lab import install

BOUND_SECONDS = 120  # for any one replacement
REQUEST_SECONDS = 3
PAUSE_SECONDS = 0.01  # between two requests of a client
KEY_LIFE = 100  # operations, then a client goes on to the next key: short histories are checked fast


class Client(threading.Thread):
    """Reads and writes one key after another, each time at any node, and remembers what it was told."""

    def __init__(self, number: int, seed: int, nodes):
        super().__init__(daemon=True)
        from muster_tools.lab.linearizable import Operation

        self.history: dict[str, list[Operation]] = {}
        self.acknowledged: list[float] = []
        self._number = number
        self._chance = random.Random(seed * 1000 + number)
        self._nodes = nodes  # those that run now; changed by the main thread
        self._done = threading.Event()
        self._make = Operation

    def run(self) -> None:
        count = 0
        while not self._done.is_set():
            # Two clients share a key, so that there is something to race for.
            key = f"{self._number // 2}-{count // KEY_LIFE}"
            self._once(key, f"{self._number}.{count}")
            count += 1
            self._done.wait(PAUSE_SECONDS)

    def _once(self, key: str, value: str) -> None:
        from muster_tools.lab.etcd import EtcdError

        node = self._chance.choice(self._nodes)
        is_write = self._chance.random() < 0.5
        called, answered = time.monotonic(), None
        try:
            if is_write:
                node.etcd.put(key, value)
            else:
                value = node.etcd.get(key)
            answered = time.monotonic()
        except ConnectionRefusedError:
            return  # never sent
        except (EtcdError, OSError, http.client.HTTPException):
            pass  # whether it took effect nobody knows
        self.history.setdefault(key, []).append(self._make(is_write, value, called, answered))
        if is_write and answered is not None:
            self.acknowledged.append(answered)

    def stop(self) -> None:
        self._done.set()
        self.join()


def replace(lab, nodes, old) -> None:
    """In the running list, so that the clients find the new one."""
    old.kill(signal.SIGTERM)
    old.wait_exit(BOUND_SECONDS)
    lab.terminate(old)
    new = lab.add_node()
    new.start()

    def has_joined() -> bool:
        members = new.etcd.members()
        addresses = {url for member in members for url in member.peer_urls}
        return new.etcd.health() and len(members) == 3 and old.peer_url not in addresses and not any(m.learner for m in members)

    lab.wait(has_joined, BOUND_SECONDS, "a replacement that votes")
    nodes[nodes.index(old)] = new


def check(clients, nodes) -> list[str]:
    """Every key is read once more, through a quorum; then every key's history is checked."""
    from muster_tools.lab.linearizable import Operation, violation

    keys: dict[str, list[Operation]] = {}
    for client in clients:
        for key, operations in client.history.items():
            keys.setdefault(key, []).extend(operations)
    broken = []
    for key, operations in sorted(keys.items()):
        called = time.monotonic()
        last = nodes[0].etcd.get(key)
        operations.append(Operation(False, last, called, time.monotonic()))
        why = violation(operations)
        if why is not None:
            broken.append(f"key {key}: {why}")
    return broken


def roll(lab, options) -> int:
    from muster_tools.lab.moments import longest_gap

    nodes = [lab.add_node() for _ in range(3)]
    for node in nodes:
        node.start()
    lab.wait(lambda: all(node.etcd.health() for node in nodes), BOUND_SECONDS, "a cluster")
    clients = [Client(number, options.seed, nodes) for number in range(options.clients)]
    for client in clients:
        client.start()
    took = []
    for turn in range(options.times):
        for place in range(3):
            began = time.monotonic()
            leads = nodes[place].etcd.is_leader()
            replace(lab, nodes, nodes[place])
            took.append(time.monotonic() - began)
            print(f"replaced node {place + 1} the {turn + 1}. time{' (it led)' if leads else ''}: {took[-1]:.1f} s", flush=True)
    for client in clients:
        client.stop()
    operations = [one for client in clients for all_of_key in client.history.values() for one in all_of_key]
    unknown = sum(one.answered is None for one in operations)
    broken = check(clients, nodes)
    gap = longest_gap(moment for client in clients for moment in client.acknowledged)
    print(f"seed {options.seed}: {len(took)} replacements, median {statistics.median(took):.1f} s each, longest {max(took):.1f} s")
    print(f"{len(operations)} operations of {len(clients)} clients, {unknown} with an unknown outcome; longest gap between two acknowledged writes {gap * 1000:.0f} ms")
    for line in broken:
        print(line)
    print("the history is linearizable: no acknowledged write is lost, no read is stale" if not broken else f"{len(broken)} keys violate linearizability")
    return 1 if broken else 0


def main() -> int:
    parser = command.parser("rolling", __doc__)
    parser.add_argument("--times", type=int, default=3, help="how often each of the three is replaced")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    command.add_etcd(parser)
    command.add_binary(parser)
    options = parser.parse_args()
    install.go_on_in_the_venv(options.etcd)
    binary = command.executable(options)
    from muster_tools.lab.node import Lab

    env = {"MUSTER_CLUSTER_SIZE": "3", "MUSTER_REMOVE_AFTER": "1s"}
    with Lab(etcd=options.etcd, muster=binary, env=env) as lab:
        return roll(lab, options)
