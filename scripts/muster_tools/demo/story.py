"""The acts: a cluster founds itself, keeps a key, loses an instance, is whole again, and has its snapshots; or it loses all, and comes back."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Callable

from muster_tools.demo.ending import Failed, Interrupts
from muster_tools.demo.progress import first_line
from muster_tools.demo.screen import Live, Plain
from muster_tools.demo.snapshots import BUCKET, PREFIX, Places, run
from muster_tools.demo.stage import Actor, Stage
from muster_tools.demo.table import seconds, short
from muster_tools.lab.etcd import NOT_YET
from muster_tools.lab.node import Lab

KEY = "demo/greeting"
DWELL_SECONDS = 5  # MUSTER_REMOVE_AFTER here
DEFAULT_DWELL_SECONDS = 30
WORDS = {3: "three", 5: "five"}

POLL_SECONDS = 0.03
FORM_BOUND_SECONDS = 60  # about a hundred times what it takes
REPLACE_BOUND_SECONDS = DWELL_SECONDS + 60
ANSWER_BOUND_SECONDS = 10  # a healthy etcd writes and reads in ms


@dataclass
class Times:
    """In seconds."""

    formed: float = 0.0
    replaced: list[float] = field(default_factory=list)

    def lines(self, count: str) -> list[str]:
        """The summary."""
        shortened = (
            f"{DWELL_SECONDS} s of it is MUSTER_REMOVE_AFTER, which this demo shortens; "
            f"the default is {DEFAULT_DWELL_SECONDS} s"
        )
        lines = [f"formed in {seconds(self.formed)} from the start of the last supervisor to {count} healthy voters"]
        if not self.replaced:
            return lines
        if len(self.replaced) == 1:
            return [*lines, f"replaced in {seconds(self.replaced[0])} from the termination; {shortened}"]
        median, worst = statistics.median(self.replaced), max(self.replaced)
        many = f"{len(self.replaced)} replacements in a row: median {seconds(median)}, worst {seconds(worst)}"
        return [*lines, f"{many}, each from its termination; {shortened}"]


class Story:
    """Plays on a lab, tells a screen, and raises `Failed` with one sentence when something isn't as it must be."""

    def __init__(self, lab: Lab, stage: Stage, screen: Live | Plain, size: int, rounds: int, interrupts: Interrupts):
        self.times = Times()
        self.count = WORDS[size]
        self.cluster = ""  # hex id, once formed
        self._lab, self._stage, self._screen, self._interrupts = lab, stage, screen, interrupts
        self._size, self._rounds = size, rounds

    def play(self) -> None:
        self.form()
        for _ in range(self._rounds):
            self.replace(self.write_and_read())
        self._screen.act(f"The cluster is whole again: {self.count} instances, {self.count} voters, and the key.")
        self.take_snapshots()

    def play_disaster(self) -> None:
        """All instances are lost with their disks, then a quorum; the key is there after each."""
        places = Places(self._lab)
        places.make()
        self._lab.env |= {"MUSTER_SNAPSHOTS": f"s3://{BUCKET}/{PREFIX}", "MUSTER_SNAPSHOT_EVERY": "0"}
        self.form()
        value = self.write_and_read()
        self._command(self.actors[0], "snapshot", "save")
        self._lose_all()
        self._restore(value)
        self._recover(value)

    @property
    def actors(self) -> list[Actor]:
        return self._stage.present()

    # The acts.

    def form(self) -> None:
        self._screen.act("The lab starts: an EC2 that checks every signature, and a metadata service per instance.")
        for _ in range(self._size):
            self._launch()
            self.check()
        self._screen.act(
            f"{self.count.capitalize()} instances carry the tag etcd=1. etcd-muster starts on each: "
            "they find each other and found one cluster."
        )
        for actor in self.actors:
            actor.start()
        begun = time.monotonic()
        self._until(self._flaw, FORM_BOUND_SECONDS, f"{self.count} instances did not become one cluster")
        self.times.formed = max(actor.first_healthy for actor in self.actors) - begun
        self._until(self._learn_cluster, ANSWER_BOUND_SECONDS, "the cluster's id could not be read")
        self._screen.note(
            f"formed in {seconds(self.times.formed)}: cluster {self.cluster}, {self.count} voters, all healthy"
        )

    def write_and_read(self) -> str:
        """The value, which the rest of the round must keep."""
        writer, reader = self.actors[0], self.actors[1]
        if not self._first_round:
            self._stage.clear_the_gone()
        value = f"written through {writer.instance}, round {len(self.times.replaced) + 1}"
        self._screen.act(f"A key is written through {writer.instance} and read through {reader.instance}.")
        self._until(lambda: self._put(writer, value), ANSWER_BOUND_SECONDS, "the key could not be written")
        self._expect(reader, value)
        if self._first_round:
            self._screen.note(
                f"{KEY} written through {short(writer.instance)}, "
                f"the same value read through {short(reader.instance)}"
            )
        return value

    def replace(self, value: str) -> None:
        """One instance dies for good, a new one takes its place."""
        victim = self._victim()
        member, role = victim.member, "the leader" if victim.role == "leader" else "a follower"
        self._screen.act(
            f"{victim.instance}, {role}, is terminated and its machine is off. A new instance with the tag takes "
            f"its place once the dead one was silent for {DWELL_SECONDS} s (MUSTER_REMOVE_AFTER; the default is "
            f"{DEFAULT_DWELL_SECONDS} s, the demo shortens it)."
        )
        begun = time.monotonic()
        victim.bow_out("terminated")
        self._lab.terminate(victim.node)
        new = self._launch()
        new.start()
        self._until(
            lambda: self._flaw(gone=member), REPLACE_BOUND_SECONDS, f"{new.instance} did not replace {victim.instance}"
        )
        took = time.monotonic() - begun
        self._expect(new, value)
        self.times.replaced.append(took)
        counted = 1 < self._rounds >= len(self.times.replaced)  # not those that --keep adds
        number = f"{len(self.times.replaced)}/{self._rounds} " if counted else ""
        self._screen.note(
            f"{number}replaced in {seconds(took)}: {short(victim.instance)} ({role}, member {member}) by "
            f"{short(new.instance)} (member {new.member}); {self.count} healthy voters, same cluster, "
            "the key is still there"
        )

    def take_snapshots(self) -> None:
        """One, to two places; all that the commands print is shown."""
        chosen = self.actors[0]
        self._screen.act(f"A snapshot of {chosen.instance} goes to S3 and to a directory, is listed there and read back.")
        places = Places(self._lab)
        places.make()
        begun = time.monotonic()
        for what in ("save", "list", "verify"):
            self.check()
            shown = places.ask(chosen, what)
            self._screen.print("\n".join([f"$ etcd-muster snapshot {what}", *(f"  {line}" for line in shown)]))
        self._screen.note(f"stored at two places, listed and verified in {seconds(time.monotonic() - begun)}")

    # A disaster's acts.

    def _lose_all(self) -> None:
        self._screen.act(f"All {self.count} instances are terminated, with their disks. {self.count.capitalize()} new ones start in their place.")
        self._stage.clear_the_gone()
        self._terminate(self.actors)
        for _ in range(self._size):
            self._launch().start()
        self._until(self._holds_beside_snapshots, FORM_BOUND_SECONDS, "the new instances did not hold beside the snapshot")
        self._screen.note("nobody founds an empty cluster: there is a snapshot, so a cluster was")

    def _restore(self, value: str) -> None:
        chosen = self.actors[0]
        self._screen.act("An operator looks at the plan, and orders the restore.")
        plan = self._plan(chosen, "restore")
        begun, self.cluster = time.monotonic(), ""
        self._command(chosen, "restore", "--yes", plan)
        self._until(self._flaw, FORM_BOUND_SECONDS, "the restored cluster is not whole")
        took = time.monotonic() - begun
        self._until(self._learn_cluster, ANSWER_BOUND_SECONDS, "the cluster's id could not be read")
        self._expect(self.actors[-1], value)
        self._screen.note(f"restored in {seconds(took)}: cluster {self.cluster}, {self.count} voters, and the key is back")

    def _recover(self, value: str) -> None:
        survivor, *others = self.actors
        self._screen.act(f"All but {survivor.instance} are terminated, with their disks: the quorum is lost for good.")
        self._stage.clear_the_gone()
        self._terminate(others)
        plan = self._plan(survivor, "recover")
        begun, self.cluster = time.monotonic(), ""
        self._command(survivor, "recover", "--yes", plan)
        self._expect(survivor, value)
        self._screen.note(f"one voter again after {seconds(time.monotonic() - begun)}, and the key is there")
        self._screen.act("New instances join by themselves.")
        for _ in others:
            self._launch().start()
        self._until(self._flaw, REPLACE_BOUND_SECONDS, "the recovered cluster is not whole")
        self._until(self._learn_cluster, ANSWER_BOUND_SECONDS, "the cluster's id could not be read")
        self._expect(self.actors[-1], value)
        self._screen.note(f"cluster {self.cluster}, {self.count} voters, and the key is still there")

    def _terminate(self, actors: list[Actor]) -> None:
        for actor in actors:
            actor.bow_out("terminated")
            self._lab.terminate(actor.node)

    def _holds_beside_snapshots(self) -> str:
        seen = any("so a cluster was" in decision.text for decision in self._stage.decisions)
        return "" if seen else "no hold yet"

    def _plan(self, actor: Actor, command: str) -> str:
        """The id of a plan that nothing stands against, shown as it is printed."""
        shown: list[str] = []

        def not_yet() -> str:
            code, shown[:] = run(self._lab, actor, [command])
            return "" if code == 0 else first_line(" ".join(shown[-1:]))

        self._until(not_yet, FORM_BOUND_SECONDS, f"{command} can't be done")
        self._show(command, shown)
        return next(line.split()[1] for line in shown if line.startswith("plan "))

    def _command(self, actor: Actor, *words: str) -> None:
        code, shown = run(self._lab, actor, list(words))
        if code != 0:
            raise Failed(f"{' '.join(words)} ended with {code}: {first_line(' '.join(shown[-1:]))}")
        self._show(" ".join(words), shown)

    def _show(self, command: str, lines: list[str]) -> None:
        self._screen.print("\n".join([f"$ etcd-muster {command}", *(f"  {line}" for line in lines)]))

    # What the acts are made of.

    @property
    def _first_round(self) -> bool:
        return not self.times.replaced

    def _launch(self) -> Actor:
        return self._stage.enter(self._lab.add_node())

    def _victim(self) -> Actor:
        """The leader and a follower in turn: losing the leader is the harder case, losing a follower the likelier."""
        is_leaders_turn = len(self.times.replaced) % 2 == 0
        chosen = [actor for actor in self.actors if (actor.role == "leader") == is_leaders_turn]
        return chosen[0] if chosen else self.actors[0]

    def _learn_cluster(self) -> str:
        self.cluster = self.actors[0].node.etcd.cluster_id()
        return ""

    def _put(self, writer: Actor, value: str) -> str:
        writer.node.etcd.put(KEY, value)
        return ""

    def _expect(self, reader: Actor, value: str) -> None:
        """Linearizable: what the cluster has agreed on, whichever node is asked."""
        found: list[str | None] = []

        def unread() -> str:
            found.append(reader.node.etcd.get(KEY))
            return ""

        self._until(unread, ANSWER_BOUND_SECONDS, f"the key could not be read through {reader.instance}")
        if found[0] != value:
            raise Failed(f"{reader.instance} reads {KEY} as {found[0]!r}, and {value!r} was written")

    def _flaw(self, gone: str = "") -> str:
        """What is still missing to a whole cluster of all that are present; nothing when it is one."""
        for actor in self.actors:
            if not actor.healthy_voter:
                return f"{actor.instance} is no healthy voter yet but at '{actor.phase}'"
        wanted = {actor.instance for actor in self.actors}
        for actor in self.actors:
            cluster = actor.node.etcd.cluster_id()
            if self.cluster and cluster != self.cluster:
                raise Failed(f"{actor.instance} is in cluster {cluster}, and {self.cluster} was formed")
            members = actor.node.etcd.members()
            if gone in {member.id for member in members}:
                return f"member {gone} is still listed by {actor.instance}"
            listed = sorted(member.name or member.id for member in members)
            if set(listed) != wanted or len(listed) != self._size:
                return f"{actor.instance} lists {', '.join(listed)}"
            if any(member.learner for member in members):
                return f"{actor.instance} still lists a learner"
        clusters = {actor.node.etcd.cluster_id() for actor in self.actors}
        return "" if len(clusters) == 1 else f"there are {len(clusters)} clusters: {', '.join(sorted(clusters))}"

    # Waiting.

    def check(self) -> None:
        """Raises for anything that ends the story: also a supervisor's end."""
        self.check_behind_the_scenes()
        for actor in self.actors:
            code = actor.exit_code()
            if code is not None:
                raise Failed(f"etcd-muster on {actor.instance} ended with {code}: {actor.last_words()}")

    def check_behind_the_scenes(self) -> None:
        """A signal to the demo, or trouble in its own threads."""
        self._interrupts.check()
        self._screen.check()
        for actor in self.actors:
            actor.check()

    def _until(self, flaw: Callable[[], str], bound: float, failure: str) -> None:
        """Waits until `flaw` names none; an etcd that can't be asked is one."""
        deadline = time.monotonic() + bound
        while True:
            self.check()
            try:
                missing = flaw()
            except NOT_YET as error:
                missing = str(error)
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Failed(f"{failure} within {bound:g} s: {missing}")
            time.sleep(POLL_SECONDS)
