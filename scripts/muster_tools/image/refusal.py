"""Why nothing was made, for the one line that the user gets."""

from __future__ import annotations

import sys
from typing import Callable

USAGE = 64  # exit codes as sysexits has them
UNAVAILABLE = 69


class Refused(Exception):
    """The message says what is wrong and what to do; `code` is the exit code."""

    def __init__(self, message: str, code: int = UNAVAILABLE):
        super().__init__(message)
        self.code = code


def say(program: str, message: object) -> None:
    print(f"{program}: {message}", file=sys.stderr, flush=True)


def told(program: str, what: Callable[[], None]) -> int:
    """Do it; the exit code, and one line where it could not be done."""
    try:
        what()
    except (Refused, OSError) as error:
        say(program, error)
        return error.code if isinstance(error, Refused) else UNAVAILABLE
    return 0
