"""A clean stop: SIGINT or SIGTERM asks the program to end at the next step boundary, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


class StopRequest:
    """`requested` turns true when the first signal comes. A context manager: the handlers it found come back."""

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        name = signal.Signals(number).name
        message = f"\n{name}: stopping after this step, with a checkpoint; once more stops at once without one\n"
        os.write(sys.stderr.fileno(), message.encode())  # print is not safe in a handler
