"""Faults of a run that its user can mend, told without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class RunError(Exception):
    """Something about a run is wrong; `message` says what, `help` what to do."""

    def __init__(self, message: str, *, help: str) -> None:
        super().__init__(message, help)
        self.message = message
        self.help = help

    def __str__(self) -> str:
        return f"{self.message}\nhelp: {self.help}"


def run_program(main: Callable[[], None]) -> None:
    """Run a generated program: a fault with a `help` is printed and ends it with status 1."""
    try:
        main()
    except Exception as error:
        if not hasattr(error, "help"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
