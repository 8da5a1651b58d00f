"""Progress of long work: what is being done, how far it is, of how much.

Work reports to a `Progress` callback and knows nothing of terminals; `show_progress` makes one that draws bars on
a terminal and prints a line now and then elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

BAR_INTERVAL_S = 0.1
LINE_INTERVAL_S = 10.0


class Progress(Protocol):
    """Called with the running stage, what is done and, where it is known, the total, both in the stage's unit."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


def silent(stage: str, done: int, total: int | None) -> None:
    """Reports nothing."""


class Stage:
    """Counts one stage and passes it on at most ten times a second, so that callers may advance at every document."""

    def __init__(self, progress: Progress, name: str, *, total: int | None) -> None:
        self._progress, self._name, self._total = progress, name, total
        self._done = 0
        self._told_at_s = time.monotonic()
        progress(name, 0, total)

    def advance(self, amount: int) -> None:
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._told_at_s >= BAR_INTERVAL_S:
            self._told_at_s = now_s
            self._progress(self._name, self._done, self._total)

    def finish(self) -> None:
        self._done = self._total if self._total is not None else self._done
        self._progress(self._name, self._done, self._done)


@contextmanager
def show_progress(stream: TextIO | None = None, *, after_s: float = 0.0) -> Iterator[Progress]:
    """A `Progress` for people, on stderr unless told otherwise: bars on a terminal, lines in a log. Nothing in the first `after_s`."""
    out = sys.stderr if stream is None else stream
    begin_s = time.monotonic() + after_s
    if not out.isatty():
        yield _Lines(out, begin_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(file=out)) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(stage: str, done: int, total: int | None) -> None:
            if time.monotonic() < begin_s:
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield draw


class _Lines:
    """One line when a stage ends, and one every ten seconds before that; none before `begin_s`."""

    def __init__(self, stream: TextIO, begin_s: float) -> None:
        self._stream, self._begin_s = stream, begin_s
        self._stage: str | None = None
        self._started_s = self._told_at_s = 0.0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now_s = time.monotonic()
        if stage != self._stage:
            self._stage, self._started_s, self._told_at_s = stage, now_s, now_s
        if now_s < self._begin_s:
            return
        if done == total:
            print(f"{stage}: done in {now_s - self._started_s:.1f} s", file=self._stream, flush=True)
        elif now_s - self._told_at_s >= LINE_INTERVAL_S:
            self._told_at_s = now_s
            share = f"{100 * done // total} %" if total else f"{done:,}"
            print(f"{stage}: {share}", file=self._stream, flush=True)
