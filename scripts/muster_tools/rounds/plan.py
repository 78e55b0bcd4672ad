"""What is to happen in a round, by its seed alone: the same seed gives the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass

SIZES = (2, 3, 5)  # in turn
KINDS = (
    "partition",  # two sides, nothing passes between them
    "one-way",  # one side doesn't hear the other
    "refuse",  # a firewall between two sides answers with resets
    "loss",  # of packets
    "delay",  # of what passes between peers' ports
    "kill",  # the supervisor alone; its etcd goes with it
    "power",  # everything on the node, and its network, at once
    "freeze",  # SIGSTOP to the etcd, or to the supervisor while there is none
    "stall",  # SIGSTOP to the supervisor
    "no-ec2",  # the way to EC2 is cut
)

# Seconds after the round's begin. A boot that takes longer than the grace time is not waited for (rule R3).
LAUNCHED_WITHIN = 1.5  # less than the shortest grace time: EC2 shows all before anyone may found without the absent
BOOTS_WITHIN = 3.0
LATE_BOOT, LATE_BOOT_SHARE = (5.0, 9.0), 0.15
FAULTS_WITHIN = 5.0
SLOW_WITHIN = 1.5  # loss and delays: what else goes wrong then meets a founding that takes its time
FAULT_LASTS = (2.0, 9.0)
FAULTS = (2, 5)
LOSS = (0.1, 0.5)
DELAY = (0.2, 2.0)  # the longest that a piece may take
GRACE = (3, 4, 5)


@dataclass(frozen=True)
class Fault:
    kind: str
    begins: float
    ends: float
    nodes: tuple[int, ...]  # whom it hits; of a partition one side
    strength: float  # of a loss its share, of a delay its longest

    def __str__(self) -> str:
        hit = ",".join(str(node + 1) for node in self.nodes)
        strength = f" {self.strength:.2f}" if self.kind in ("loss", "delay") else ""
        return f"{self.kind}{strength} of {hit} from {self.begins:.1f} to {self.ends:.1f} s"


@dataclass(frozen=True)
class Plan:
    seed: int
    size: int
    member_type: str
    grace: int
    launches: tuple[float, ...]
    boots: tuple[float, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        boots = ", ".join(f"{launch:.1f}/{boot:.1f}" for launch, boot in zip(self.launches, self.boots))
        return (
            f"{self.size} nodes by {self.member_type}, grace {self.grace} s, launched/started at {boots} s; "
            + "; ".join(map(str, self.faults))
        )


def make(seed: int) -> Plan:
    chance = random.Random(seed)
    size = SIZES[seed % len(SIZES)]
    launches = tuple(chance.uniform(0, LAUNCHED_WITHIN) for _ in range(size))
    boots = tuple(launch + _boot(chance) for launch in launches)
    return Plan(
        seed=seed,
        size=size,
        member_type=chance.choice(("host", "host", "ip")),
        grace=chance.choice(GRACE),
        launches=launches,
        boots=boots,
        faults=tuple(_fault(chance, size) for _ in range(chance.randint(*FAULTS))),
    )


def _boot(chance: random.Random) -> float:
    late = chance.random() < LATE_BOOT_SHARE
    return chance.uniform(*LATE_BOOT) if late else chance.uniform(0, BOOTS_WITHIN)


def _fault(chance: random.Random, size: int) -> Fault:
    # Resets on both sides of two is a limit that the README names: each could take the other for dead.
    kind = chance.choice([kind for kind in KINDS if size > 2 or kind != "refuse"])
    if kind in ("partition", "one-way", "refuse"):
        hit = chance.randint(1, size - 1)
    elif kind in ("loss", "delay"):
        hit = chance.randint(1, size)
    else:
        hit = 1
    begins = chance.uniform(0, SLOW_WITHIN if kind in ("loss", "delay") else FAULTS_WITHIN)
    return Fault(
        kind=kind,
        begins=begins,
        ends=begins + chance.uniform(*FAULT_LASTS),
        nodes=tuple(sorted(chance.sample(range(size), hit))),
        strength=chance.uniform(*(LOSS if kind == "loss" else DELAY)),
    )
