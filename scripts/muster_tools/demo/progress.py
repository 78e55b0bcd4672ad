"""A long command, run so that one can see it is alive: a ticking line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator

from muster_tools.demo.ending import Failed, Interrupts
from muster_tools.lab.process import Process

TICK_SECONDS = 0.1  # a clock with tenths looks alive
PLAIN_LINE_EVERY_SECONDS = 15  # a CI log wants signs of life, not a clock
END_BOUND_SECONDS = 10  # for an interrupted pip or cargo to clean up after itself
SHOWN_OF_A_FAILURE = 25  # lines of its log
FALLBACK_SIZE = os.terminal_size((80, 24))


def terminal_size() -> os.terminal_size:
    """Asked anew each time: windows are resized. Some pseudo-terminals say 0 by 0."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return FALLBACK_SIZE
    return size if size.columns and size.lines else FALLBACK_SIZE


def can_redraw() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def say(text: str) -> None:
    print(text, flush=True)


def first_line(text: str) -> str:
    return (text.splitlines() or ["nothing"])[0]


def run_visibly(
    title: str, command: list[str], log: Path, lasts: Callable[[str], bool], interrupts: Interrupts
) -> float:
    """Seconds it took; its output goes to the log, the lines that `lasts` picks stay on the screen as well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with _Ticker(title) as ticker, _running(command, log) as child, open(log, errors="replace") as output:
        ended = False
        while not ended:
            interrupts.check()
            time.sleep(TICK_SECONDS)
            # Asked before the output is read: what was written before the end is then all there.
            ended = child.exit_code() is not None
            for line in _whole_lines(output, ended):
                ticker.show(line, lasts(line))
            ticker.tick()
    if child.exit_code() != 0:
        say("\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_OF_A_FAILURE:]))
        raise Failed(f"{title} failed with exit code {child.exit_code()}; its whole output is in {log}")
    return ticker.seconds()


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[Process]:
    """A child that leaves nothing behind: neither what it started nor, if it can help it, what it half made."""
    # A place for temporary files of its own: pip and ensurepip leave theirs when they are interrupted.
    with tempfile.TemporaryDirectory(dir=log.parent) as scratch:
        child = Process(command, {**os.environ, "TMPDIR": scratch}, Path.cwd(), log)
        try:
            yield child
        finally:
            _interrupt(child)
            child.end()


def _interrupt(child: Process) -> None:
    """As Ctrl-C does, once to each: apt and cargo then tidy up, and their parent fails by itself.

    The parent is told only when it is alone: told at once, python's subprocess.run kills an apt that is still tidying.
    """
    deadline = time.monotonic() + END_BOUND_SECONDS
    told: set[int] = set()
    while time.monotonic() < deadline:
        alive = set(child.session())
        if not alive:
            return
        for pid in (alive - {child.pid} or alive) - told:
            told.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        time.sleep(TICK_SECONDS)


def _whole_lines(output, at_end: bool) -> Iterator[str]:
    """The new lines; one that is still being written waits for the next time."""
    while True:
        place = output.tell()
        line = output.readline()
        if not line.endswith("\n") and not (line and at_end):
            output.seek(place)
            return
        if line.strip():
            yield line.strip()


class _Ticker:
    """One line, overwritten with the time and what the command last said; where that can't be, a line now and then."""

    def __init__(self, title: str):
        self._title, self._last = title, ""
        self._begun = time.monotonic()
        self._clear = "\r\x1b[K" if can_redraw() else ""
        self._due = self._begun + PLAIN_LINE_EVERY_SECONDS

    def __enter__(self) -> _Ticker:
        if not self._clear:
            say(f"{self._title} …")
        return self

    def show(self, line: str, lasts: bool) -> None:
        if lasts:
            say(f"{self._clear}{line}")
        else:
            self._last = line

    def tick(self) -> None:
        text = f"{self._title}: {self.seconds():.1f} s  {self._last}"
        if self._clear:
            print(f"{self._clear}{text[: terminal_size().columns - 1]}", end="", flush=True)
        elif time.monotonic() >= self._due:
            self._due += PLAIN_LINE_EVERY_SECONDS
            say(text)

    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def __exit__(self, *_: object) -> None:
        print(self._clear, end="", flush=True)
