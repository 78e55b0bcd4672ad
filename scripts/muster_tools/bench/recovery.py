"""The way back, beside the same by hand: a lost fleet of three restored from a store, and a lost quorum from one survivor's data.

By hand, restoring is on each of three hosts at once: awscli copies the snapshot, etcdutl restores it under a new token, etcd starts. Recovering is: etcd with
--force-new-cluster on a copy of the data, `etcdctl snapshot save`, etcdutl, etcd. Both sides end with healthy voters. All are on these cores, and so is the store.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from muster_tools.bench import peers, rclone
from muster_tools.bench.figures import Bound, Row
from muster_tools.bench.measure import MIB, Failed, all_healthy_voters, must, pairs, poll, progress, resident
from muster_tools.bench.peers import Options
from muster_tools.bench.saving import Member, release

RESTORE_RATIO, RECOVER_RATIO, EXCESS_MIB = 1.25, 2.0, 8
RECOVERED_MIB = 100
BOUND_SECONDS = 600
LOOK_SECONDS = 0.02
SETTINGS = {"MUSTER_SNAPSHOTS": f"s3://{rclone.BUCKET}/ours", "MUSTER_SNAPSHOT_EVERY": "0", "MUSTER_PROBE_TIMEOUT": "5s", "MUSTER_CLUSTER_SIZE": "3"}


def measure(options: Options) -> list[Row]:
    from muster_tools.lab.node import Lab

    size = sorted(options.mib)[:2][-1]
    with rclone.Store("127.0.0.1", size * MIB) as store, Lab(etcd=release(), muster=options.binary) as lab:
        # EC2 has the instance's role, the store its own keys.
        given = store.environment()
        of_store = {"ENDPOINT": "AWS_ENDPOINT_URL_S3", "REGION": "AWS_REGION", "ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"}
        lab.env |= {**{f"MUSTER_S3_{own}": given[theirs] for own, theirs in of_store.items()}, **SETTINGS}
        way = Way(lab, options.binary, store)
        progress(f"recovery, {size:,} MiB: a snapshot to restore")
        way.fill(size)
        ours, by_hand = pairs(options.pairs, way.restored, way.restored_by_hand)
        progress(f"recovery, {RECOVERED_MIB} MiB: a quorum that is lost")
        recovered, recovered_by_hand = pairs(options.pairs, way.recovered, way.recovered_by_hand)
    title = f"recovery, {size:,} MiB, three hosts"
    rest = [wall.rest for wall in ours]
    return [
        Row("recovery/restore-wall", f"{title}: from --yes to three healthy voters", "s", "awscli, etcdutl, etcd on each host", [w.wall for w in ours],
            by_hand, Bound(ratio=RESTORE_RATIO), headline=True),
        Row("recovery/restore-memory", f"{title}: resident of a supervisor, the most", "MiB", "before the order", [w.peak for w in ours], rest,
            Bound(excess=EXCESS_MIB)),
        Row("recovery/recover-wall", f"recovery, {RECOVERED_MIB} MiB, one survivor of three: from --yes to one healthy voter", "s",
            "force-new-cluster on a copy, etcdctl, etcdutl, etcd", recovered, recovered_by_hand, Bound(ratio=RECOVER_RATIO), headline=True),
    ]


class Restored:
    def __init__(self, wall: float, peak: float, rest: float):
        self.wall, self.peak, self.rest = wall, peak, rest


class Way:
    def __init__(self, lab, muster: Path, store: rclone.Store):
        self._lab, self._muster, self._store, self._tools, self._runs = lab, muster, store, lab.etcd_binary.parent, 0

    def fill(self, mib: int) -> None:
        """A cluster of one gives the snapshot that all restore; it is also there for awscli."""
        member = Member(self._lab, self._muster, self._store)
        member.fill(mib)
        self._run([str(self._muster), "snapshot", "save"], member.environment(), self._lab.directory)
        member._stop()

    def restored(self) -> Restored:
        nodes = self._fresh()
        plan = self._plan(nodes[0], "restore")
        rest = max(resident(node.process.pid) for node in nodes)
        with peak_of(nodes) as peak:
            began = time.monotonic()
            self._run([str(self._muster), "restore", "--yes", plan], nodes[0].environment(), nodes[0].directory)
            must(lambda: all_healthy_voters(nodes), "the restored cluster", BOUND_SECONDS)
            wall = time.monotonic() - began
        self._end(nodes)
        return Restored(wall, max(peak), rest)

    def restored_by_hand(self) -> float:
        from muster_tools.lab.node import static_list_arguments

        nodes = [self._lab.add_node(launch=False) for _ in range(3)]
        key = self._key()
        self._runs += 1
        token = f"by-hand-{self._runs}"

        def bring(node) -> None:
            copy = node.directory / "copy.db"
            quiet = [str(peers.awscli()), "s3", "cp", "--no-progress", f"s3://{rclone.BUCKET}/{key}", str(copy)]
            self._run(quiet, self._store.environment(), node.directory)
            flags = static_list_arguments(node, nodes, token)
            self._restore_by_hand(copy, node, flags)
            copy.unlink()
            node.start_plain_etcd(flags)

        began = time.monotonic()
        with ThreadPoolExecutor(3) as hosts:
            list(hosts.map(bring, nodes))
        must(lambda: all_healthy_voters(nodes), "the cluster restored by hand", BOUND_SECONDS)
        wall = time.monotonic() - began
        self._end(nodes)
        return wall

    def recovered(self) -> float:
        nodes = self._lost_quorum()
        plan = self._plan(nodes[0], "recover")
        began = time.monotonic()
        self._run([str(self._muster), "recover", "--yes", plan], nodes[0].environment(), nodes[0].directory)
        must(nodes[0].etcd.health, "the recovered member", BOUND_SECONDS)
        wall = time.monotonic() - began
        self._end(nodes)
        return wall

    def recovered_by_hand(self) -> float:
        from muster_tools.lab.node import static_list_arguments

        nodes = self._lost_quorum()
        survivor = nodes[0]
        spare = self._lab.add_node(launch=False)
        began = time.monotonic()
        survivor.kill()
        survivor.wait_exit(BOUND_SECONDS)
        shutil.copytree(survivor.data / "member", spare.data / "member", dirs_exist_ok=True)
        shutil.copytree(survivor.wal / "wal", spare.data / "member" / "wal", dirs_exist_ok=True)
        alone = [f"--data-dir={spare.data}", f"--name={spare.address}", "--force-new-cluster", *self._listen(spare)]
        spare.start_program([str(spare.program), *alone], spare.environment())
        must(spare.etcd.health, "the copy", BOUND_SECONDS)
        copy = spare.directory / "copy.db"
        self._run([str(self._tools / "etcdctl"), f"--endpoints={spare.client_url}", "snapshot", "save", str(copy)], spare.environment(), spare.directory)
        spare.kill()
        spare.wait_exit(BOUND_SECONDS)
        new = self._lab.add_node(launch=False)
        self._runs += 1
        flags = static_list_arguments(new, [new], f"by-hand-{self._runs}")
        self._restore_by_hand(copy, new, flags)
        new.start_plain_etcd(flags)
        must(new.etcd.health, "the member recovered by hand", BOUND_SECONDS)
        wall = time.monotonic() - began
        self._end([*nodes, spare, new])
        return wall

    # What these are made of.

    def _fresh(self) -> list:
        nodes = [self._lab.add_node() for _ in range(3)]
        for node in nodes:
            node.start()
        return nodes

    def _lost_quorum(self) -> list:
        self._lab.env["MUSTER_SNAPSHOTS"] = ""
        nodes = self._fresh()
        must(lambda: all_healthy_voters(nodes), "a cluster to lose")
        value = "x" * (MIB // 2)
        for number in range(RECOVERED_MIB * 2):
            nodes[0].etcd.put(f"data/{number}", value)
        for node in nodes[1:]:
            self._lab.terminate(node)
        self._lab.env["MUSTER_SNAPSHOTS"] = SETTINGS["MUSTER_SNAPSHOTS"]
        return nodes

    def _plan(self, node, command: str) -> str:
        """The id of a plan that nothing stands against."""
        shown: list[str] = []

        def ready() -> bool:
            done = subprocess.run([str(self._muster), command], env=node.environment(), cwd=node.directory, capture_output=True, text=True, timeout=60)
            shown[:] = (done.stdout + done.stderr).splitlines()
            return done.returncode == 0

        if not poll(ready):
            raise Failed(f"no plan to {command}: {shown[-1]}")
        return next(line.split()[1] for line in shown if line.startswith("plan "))

    def _key(self) -> str:
        listed = self._run([str(peers.awscli()), "s3", "ls", "--recursive", f"s3://{rclone.BUCKET}/ours/"], self._store.environment(), self._lab.directory)
        return next(line.split()[-1] for line in listed.splitlines() if line.endswith(".db"))

    def _restore_by_hand(self, copy: Path, node, flags: list[str]) -> None:
        wanted = ("--name", "--initial-cluster", "--initial-cluster-token", "--initial-advertise-peer-urls")
        own = [f"--data-dir={node.data}", f"--wal-dir={node.wal}", *(flag for flag in flags if flag.split("=")[0] in wanted)]
        for place in (node.data, node.wal):
            shutil.rmtree(place, ignore_errors=True)
        raised = ["--bump-revision=1000000000", "--mark-compacted"]
        self._run([str(self._tools / "etcdutl"), "snapshot", "restore", str(copy), *own, *raised], node.environment(), node.directory)

    @staticmethod
    def _listen(node) -> list[str]:
        return [f"--listen-client-urls={node.client_url}", f"--advertise-client-urls={node.client_url}", f"--listen-peer-urls={node.peer_url}"]

    @staticmethod
    def _run(command: list[str], environment: dict[str, str], directory: Path) -> str:
        done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=BOUND_SECONDS)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command[:3])} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        return done.stdout

    def _end(self, nodes: list) -> None:
        for node in nodes:
            if node.front is not None:
                self._lab.terminate(node)
            elif node.process is not None and node.runs():
                node.power_off()
            for place in (node.data, node.wal):
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def peak_of(nodes: list) -> Iterator[list[float]]:
    """MiB resident, the most of each supervisor, looked at every 20 ms."""
    most, stop = [0.0] * len(nodes), threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            for at, node in enumerate(nodes):
                most[at] = max(most[at], resident(node.process.pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()
