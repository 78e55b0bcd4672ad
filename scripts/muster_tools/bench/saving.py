"""One etcd with data and puts, and snapshots of it brought to a store: by `snapshot save`, and by etcdctl and awscli one after the other.

Both are watched from outside, stage by stage: what they and etcd take of a CPU, and how long the puts meanwhile take.
"""

from __future__ import annotations

import base64
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from muster_tools.bench import client, rclone
from muster_tools.bench.measure import MIB, Failed, cost_of, cpu_ms, must, poll, resident
from muster_tools.lab import install

VALUE_BYTES = MIB
WRITERS = 4
# While it is filled, etcd would keep the last 5,000 entries of its log in memory: all of the data.
FILLING = ["--snapshot-count=100", "--snapshot-catchup-entries=10"]
QUOTA = [f"--quota-backend-bytes={8 << 30}"]
END_BOUND_SECONDS = 60
JOB_BOUND_SECONDS = 300
CALM_SECONDS = 2  # of puts alone, before each job: what a put takes of etcd
FEWEST_PUTS = 100  # for a p99
LOOK_SECONDS = 0.005  # how sharply a stage's end is seen, and how often memory is looked at
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


@dataclass
class Stage:
    """Of one job."""

    wall: float  # s
    cpu: float  # s, of the job's own process and of etcd, without what etcd takes for the puts alone
    p99: float  # ms, of the puts meanwhile
    resident: float  # MiB, the most that was seen in this stage alone


class Member:
    """A cluster of one, without a supervisor."""

    def __init__(self, lab, muster: Path, store: rclone.Store):
        from muster_tools.lab.node import static_list_arguments

        self._muster, self._store, self._folder = muster, store, lab.directory / "copies"
        self._folder.mkdir()
        self._node = lab.add_node(launch=False)
        # Where no supervisor ever ran, etcd is asked at 127.0.0.1, whose own ports are others'.
        self._port = rclone.free_port("127.0.0.1")
        both = f"--listen-client-urls={self._node.client_url},http://127.0.0.1:{self._port}"
        self._arguments = [*static_list_arguments(self._node, [self._node]), both, *QUOTA]
        self._filled = self._jobs = 0
        self._etcdctl = lab.etcd_binary.parent / "etcdctl"
        self._start([])

    def _start(self, more: list[str]) -> None:
        self._node.start_plain_etcd([*self._arguments, *more])
        must(self._node.etcd.health, "etcd")

    def _stop(self) -> None:
        self._node.kill(signal.SIGTERM)
        self._node.wait_exit(END_BOUND_SECONDS)

    def fill(self, mib: int) -> None:
        """Until it has so many values of 1 MiB that no compression makes smaller."""
        self._stop()
        self._start(FILLING)

        def put(number: int) -> None:
            encode = lambda data: base64.b64encode(data).decode()
            body = {"key": encode(f"data/{number:06}".encode()), "value": encode(os.urandom(VALUE_BYTES))}
            if not poll(lambda: self._node.etcd.post("/v3/kv/put", body)):
                raise Failed(f"etcd does not take value {number}")

        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(put, range(self._filled, mib)))
        self._filled = mib
        self._stop()
        self._start([])

    def environment(self) -> dict[str, str]:
        own = {**self._node.environment(), "CLNT_PORT": str(self._port)}
        return {**own, **self._store.environment(), "MUSTER_SNAPSHOTS": f"s3://{rclone.BUCKET}/ours"}

    # What is measured.

    def peak(self) -> float:
        """MiB of `snapshot save`, while nobody puts."""
        self._store.empty()
        self._node.etcd.put("bench/moved", str(time.monotonic()))  # so that it is another snapshot than the last
        return cost_of([str(self._muster), "snapshot", "save"], self.environment(), peak=True, bound=JOB_BOUND_SECONDS).peak

    def ours(self) -> dict[str, Stage]:
        """Stages: `taken` from etcd, `stored` as well, `proved` as well."""
        self._store.empty()
        spool = self._node.data / "muster" / "spool"
        with Watch(self._node) as watch:
            job = watch.start([str(self._muster), "snapshot", "save"], self.environment(), self._node.directory)
            # It is whole when it has its name, and read back when there is a second one.
            watch.mark_when("taken", job, lambda: any(spool.glob("*.db")))
            watch.mark_when("stored", job, lambda: any(spool.glob("*.part")))
            watch.end(job, "proved")
        return watch.stages

    def by_hand(self, awscli: Path) -> dict[str, Stage]:
        """The same stages by etcdctl and awscli: the proof is the copy that is read back and compared."""
        self._store.empty()
        self._jobs += 1
        one, back = (self._folder / f"{self._jobs}{end}" for end in (".db", ".back"))
        there, quiet = f"s3://{rclone.BUCKET}/by-hand/{one.name}", "--no-progress"
        steps = {
            "taken": [[str(self._etcdctl), f"--endpoints={self._node.client_url}", "snapshot", "save", str(one)]],
            "stored": [[str(awscli), "s3", "cp", quiet, str(one), there]],
            "proved": [[str(awscli), "s3", "cp", quiet, there, str(back)], ["cmp", str(one), str(back)]],
        }
        with Watch(self._node) as watch:
            for stage, commands in steps.items():
                for command in commands:
                    job = watch.start(command, self._store.environment(), self._folder)
                    watch.end(job, stage)
        one.unlink()
        back.unlink()
        return watch.stages


class Watch:
    """Puts go on around the jobs; `stages` is known at the block's end, each with those before it."""

    def __init__(self, node):
        self._node = node
        self._pid = node.process.pid
        # When, CPU of the jobs so far, CPU of etcd so far, most resident.
        self._marks: dict[str, tuple[float, float, float, float]] = {}
        self._resident = 0.0  # the most in this stage
        self._began: float | None = None
        self._cpu = 0.0  # of jobs that ended
        self.stages: dict[str, Stage] = {}

    def __enter__(self) -> Watch:
        self._puts = client.Running([self._node.address]).__enter__()
        time.sleep(CALM_SECONDS / 2)
        before, began = cpu_ms(self._pid), time.monotonic()
        time.sleep(CALM_SECONDS)
        self._calm = (began, time.monotonic(), cpu_ms(self._pid) - before)
        return self

    def start(self, command: list[str], environment: dict[str, str], directory: Path) -> subprocess.Popen:
        if self._began is None:
            self._began, self._etcd_before = time.monotonic(), cpu_ms(self._pid)
        return subprocess.Popen(
            command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def mark_when(self, stage: str, job: subprocess.Popen, is_over: Callable[[], bool]) -> None:
        """At the end of one of its stages."""
        if not self._look_until(job, is_over, stage):
            raise Failed(f"{job.args[:3]} ended before it was {stage}: {job.communicate()[0][-500:]}")
        self._mark(stage, self._cpu + ticks(job.pid))

    def end(self, job: subprocess.Popen, stage: str) -> None:
        self._look_until(job, lambda: False, stage)
        said = job.stdout.read()
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
        job.stdout.close()
        if job.returncode != 0:
            raise Failed(f"{' '.join(map(str, job.args[:3]))} ended with {job.returncode}: {said[-500:]}")
        self._cpu += (usage.ru_utime + usage.ru_stime) * 1000
        self._mark(stage, self._cpu)

    def _look_until(self, job: subprocess.Popen, is_over: Callable[[], bool], stage: str) -> bool:
        """False: the job ended first."""
        deadline = time.monotonic() + JOB_BOUND_SECONDS
        while not is_over():
            if os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            if time.monotonic() > deadline:
                job.kill()
                raise Failed(f"{job.args[:3]} was not {stage} within {JOB_BOUND_SECONDS} s")
            with suppress(KeyError):  # it has no memory any more
                self._resident = max(self._resident, resident(job.pid))
            time.sleep(LOOK_SECONDS)
        return True

    def _mark(self, stage: str, cpu: float) -> None:
        before = self._marks.get(stage, (0, 0, 0, 0))[3]
        self._marks[stage] = (time.monotonic(), cpu, cpu_ms(self._pid), max(before, self._resident))
        self._resident = 0.0

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                puts = self._puts.stop().acknowledged()
                answered = lambda began, ended: [put for put in puts if began <= put.answered <= ended]
                began, ended, cpu = self._calm
                of_a_put = cpu / max(1, len(answered(began, ended)))
                for stage, (ended, own, etcd, most) in self._marks.items():
                    here = answered(self._began, ended)
                    if len(here) < FEWEST_PUTS:
                        raise Failed(f"only {len(here)} puts were answered until it was {stage}")
                    cpu = own + etcd - self._etcd_before - of_a_put * len(here)
                    took = [put.answered - put.called for put in here]
                    p99 = statistics.quantiles(took, n=100)[98]
                    self.stages[stage] = Stage(ended - self._began, cpu / 1000, p99 * 1000, most)
        finally:
            self._puts.__exit__()


def ticks(pid: int) -> float:
    """Milliseconds of a CPU, of all its threads, those that ended as well."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) * TICK_MS


def release() -> str:
    return install.newest("3.6.")
