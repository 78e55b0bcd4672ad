"""How the demo ends other than well: a failure told in one sentence, or a signal."""

from __future__ import annotations

import signal

# What a terminal or a CI runner sends to end a run.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """One sentence for the user."""


class Interrupted(Exception):
    """Told to stop; the exit code is the shell's for that signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """Notes signals, and raises only where `check` is called: a Ctrl-C must not tear a launch or a clean-up in two."""

    def __init__(self) -> None:
        self._number = 0
        for number in STOPPING:
            # nohup's wish is kept; an ignored SIGINT is only what a script's "&" does, and hides our clean-up.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _note(self, number: int, _frame: object) -> None:
        self._number = number

    def check(self) -> None:
        if self._number:
            raise Interrupted(self._number)

    def block_for_exec(self) -> None:
        """From here on a signal waits for the `Interrupts` of the program that this process becomes."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        self.check()
