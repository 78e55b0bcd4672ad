"""The demo's two screens: a table redrawn in place on a terminal, a line per change anywhere else."""

from __future__ import annotations

import os
import sys
import termios
import textwrap
import threading
import time
from contextlib import suppress

from muster_tools.demo.progress import can_redraw, say, terminal_size
from muster_tools.demo.stage import Actor, Repeating, Stage
from muster_tools.demo.table import Painter, crop, decision_line, seconds, table

REDRAW_SECONDS = 0.1
MOST_DECISIONS = 12  # more than the eye follows
FEWEST_DECISIONS = 3
PLAIN_COLUMNS = 180  # a line of a CI log: long enough for a list of three members

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW, CLEAR_ALL = "\x1b[K", "\x1b[J", "\x1b[H\x1b[J"


def open_screen(stage: Stage) -> Live | Plain:
    return Live(stage, Painter(not os.environ.get("NO_COLOR"))) if can_redraw() else Plain(stage)


class Live:
    """The frame is the last lines of the terminal; notes stay above it, so that the finished acts can be read later."""

    def __init__(self, stage: Stage, painter: Painter):
        self._stage, self._painter = stage, painter
        self._lines_up = 0  # of the frame that stands
        self._size = terminal_size()
        self._guard = threading.RLock()
        self._quiet = _QuietKeyboard()
        self._write(HIDE_CURSOR)
        self._redrawing = Repeating(self._redraw)

    def act(self, sentence: str) -> None:
        self._stage.act = sentence

    def note(self, text: str, good: bool = True) -> None:
        """A result, above the frame."""
        lines = textwrap.wrap(text, terminal_size().columns - 3, subsequent_indent="  ")
        mark = self._painter.paint("✓", "green") if good else self._painter.paint("✗", "red")
        self.print(f"{mark} " + "\n".join(lines))

    def print(self, text: str) -> None:
        with self._guard:
            # Written over the frame, not after clearing it: some terminals keep what is cleared as history.
            self._write(self._to_top() + "".join(f"{line}{CLEAR_LINE}\n" for line in text.split("\n")))
            self._lines_up = 0
            self._redraw()

    def check(self) -> None:
        self._redrawing.check()

    def close(self, leave_frame: bool) -> None:
        """The terminal as it was, with or without the last frame."""
        self._redrawing.stop()
        # The terminal may be what went away.
        with suppress(OSError):
            if leave_frame:
                self._redraw()
            else:
                self._write(self._to_top() + CLEAR_BELOW)
            self._write(SHOW_CURSOR)
        self._quiet.end()

    def _redraw(self) -> float:
        with self._guard:
            size = terminal_size()
            lines = frame(self._stage, self._painter, size)
            start = self._to_top() if size == self._size else CLEAR_ALL  # a resize rewraps what stood
            self._write(start + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
            self._lines_up, self._size = len(lines), size
        return REDRAW_SECONDS

    def _to_top(self) -> str:
        return f"\r\x1b[{self._lines_up}A" if self._lines_up else "\r"

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def frame(stage: Stage, painter: Painter, size: os.terminal_size) -> list[str]:
    """The act, the nodes, the last decisions: never higher than the terminal, or it could not be redrawn in place."""
    width, height = size.columns - 1, size.lines - 1
    heading = f"{stage.title}  {seconds(time.time() - stage.origin)}"
    lines = ["", painter.paint(crop(heading, width), "dim")]
    lines += [painter.paint(line, "bold") for line in textwrap.wrap(stage.act, width)]
    lines += ["", *table(stage.actors, painter, width), ""]
    room = max(FEWEST_DECISIONS, min(MOST_DECISIONS, height - len(lines)))
    latest = sorted(stage.decisions, key=lambda decision: decision.at)[-room:]
    lines += [decision_line(decision, stage.origin, painter, width) for decision in latest]
    return lines[-height:]


class _QuietKeyboard:
    """Typed keys must not land in the frame: no echo, as long as the terminal is ours."""

    def __init__(self) -> None:
        self._saved = None
        # In a shell's background, changing the terminal would stop us.
        with suppress(OSError, termios.error):
            if os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp():
                self._saved = termios.tcgetattr(sys.stdin)
                quiet = termios.tcgetattr(sys.stdin)
                quiet[3] &= ~termios.ECHO
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)

    def end(self) -> None:
        if self._saved is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)


class Plain:
    """Each act, decision and change of a node's role is one line."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._told = 0  # decisions
        self._shown: dict[str, tuple[str, str, bool]] = {}
        self._guard = threading.RLock()
        self._printing = Repeating(self._print_news)

    def act(self, sentence: str) -> None:
        self._stage.act = sentence
        self.print(f"--- {sentence}")

    def note(self, text: str, good: bool = True) -> None:
        self.print(f"--- {'done' if good else 'failed'}: {text}")

    def print(self, text: str) -> None:
        with self._guard:
            self._print_news()
            say(text)

    def check(self) -> None:
        self._printing.check()

    def close(self, leave_frame: bool) -> None:
        self._printing.stop()
        with suppress(OSError):
            self._print_news()

    def _print_news(self) -> float:
        with self._guard:
            fresh = self._stage.decisions[self._told :]
            self._told += len(fresh)
            for decision in sorted(fresh, key=lambda decision: decision.at):
                say(decision_line(decision, self._stage.origin, Painter(False), PLAIN_COLUMNS))
            for actor in list(self._stage.actors):
                self._print_change(actor)
        return REDRAW_SECONDS

    def _print_change(self, actor: Actor) -> None:
        ended = actor.ended is not None
        now = (actor.member, actor.role, ended)
        if now != self._shown.get(actor.instance):
            known = actor.instance in self._shown
            self._shown[actor.instance] = now
            role = "no leader" if actor.role == "-" else actor.role
            what = "launched" if not known else actor.phase if ended else role
            member = f"member {actor.member}" if actor.member else "no member yet"
            when = seconds(time.time() - self._stage.origin)
            say(f"{when:>8}  {actor.instance}  {actor.node.address}: {what}, {member}")
