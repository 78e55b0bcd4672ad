"""A child process with everything it starts, so that a lab leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

END_BOUND = 10  # seconds
POLL_SECONDS = 0.005  # orphans are not our children: their end can only be looked for


class Process:
    """Runs in a session of its own: what it starts, and what outlives it, is found by that session's id."""

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path, log: Path):
        with open(log, "ab") as output:
            self._child = subprocess.Popen(
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def exit_code(self) -> int | None:
        """None while it runs; -n when signal n ended it."""
        return self._child.poll()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the process itself, not what it started."""
        self._child.send_signal(number)

    def wait_exit(self, bound: float) -> int:
        try:
            return self._child.wait(bound)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} still ran after {bound} s") from None

    def session(self) -> list[int]:
        """The pids of the process and all its descendants that live and have not left its session."""
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _session_of(entry) == self.pid]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing of the session runs, and nothing of what it writes is on its way, until the block ends."""
        pids = self.session()
        for pid in pids:
            _kill(pid, signal.SIGSTOP)
        try:
            while any(map(_is_running, pids)):
                time.sleep(POLL_SECONDS)
            yield
        finally:
            for pid in pids:
                _kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill the whole session, and return when it is gone: then its ports are free."""
        deadline = time.monotonic() + END_BOUND
        while self.session():
            if time.monotonic() > deadline:
                raise AssertionError(f"processes {self.session()} outlived SIGKILL for {END_BOUND} s")
            for pid in self.session():
                _kill(pid)
            self._child.poll()
            time.sleep(POLL_SECONDS)
        self._child.wait()


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):  # ended meanwhile
        os.kill(pid, number)


def _is_running(pid: int) -> bool:
    """Any of its threads: a signal stops each on its own way out of the kernel."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return any((_stat(f"{pid}/task/{thread}") or "T")[0] not in "TZX" for thread in os.listdir(f"/proc/{pid}/task"))
    return False


def _session_of(pid: str) -> int | None:
    """None when the process has ended, whether or not its parent has looked yet."""
    state, _, _, session, *_ = _stat(pid) or "X000"
    return None if state in "ZX" else int(session)


def _stat(process: str) -> list[str] | None:
    """state ppid pgrp session …; None when it is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()  # after the name, which may hold spaces and brackets
    except (FileNotFoundError, ProcessLookupError):
        return None
