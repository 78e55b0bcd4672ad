"""A child process with everything it starts, so that a lab leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
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


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # ended meanwhile
        os.kill(pid, signal.SIGKILL)


def _session_of(pid: str) -> int | None:
    """None when the process has ended, whether or not its parent has looked yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # pid (name) state ppid pgrp session …; the name may hold spaces and brackets
            state, _, _, session, *_ = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(session)
