"""The live view of a training run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

if TYPE_CHECKING:
    from .training_run import RunPlan

LINE_INTERVAL_S = 10.0
_SMOOTHED_STEPS = 20


class TrainingBar(Protocol):
    def show(self, line: dict[str, Any]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


def training_bar(plan: RunPlan, *, first_step: int, last_step: int, stream: TextIO | None = None) -> TrainingBar:
    """The view for `stream`, stderr unless told otherwise."""
    if stream is None:
        stream = cast(TextIO, sys.stderr)
    figures = _Figures(plan, first_step=first_step, last_step=last_step)
    return _Bar(figures, stream) if stream.isatty() else _Lines(figures, stream)


class _Figures:
    """What a line of metrics means to a person: smoothed speed, MFU, time left."""

    def __init__(self, plan: RunPlan, *, first_step: int, last_step: int) -> None:
        self.plan, self.first_step, self.last_step = plan, first_step, last_step
        self._speeds: deque[float] = deque(maxlen=_SMOOTHED_STEPS)
        self._started_s = time.monotonic()
        self._has_remarked = False

    @property
    def _tokens_per_s(self) -> float:
        return sum(self._speeds) / len(self._speeds)

    def remark(self) -> str | None:
        """What the speed asks to be told, once."""
        found = None if self._has_remarked else self.plan.remark(self._tokens_per_s)
        self._has_remarked = self._has_remarked or found is not None
        return found

    def text(self, line: dict[str, Any]) -> str:
        self._speeds.append(line["tokens_per_s"])
        speed = f"{self._tokens_per_s:,.0f} tokens/s, {self.plan.mfu_words(self._tokens_per_s)}"
        return f"loss {line['loss']:.3f}, {speed}, {_clock(self._left_s(line['step']))} left"

    def _left_s(self, step: int) -> float:
        elapsed_s = time.monotonic() - self._started_s
        return elapsed_s / max(1, step - self.first_step) * (self.last_step - step)


class _Lines:
    def __init__(self, figures: _Figures, stream: TextIO) -> None:
        self._figures, self._stream = figures, stream
        self._told_at_s = float("-inf")

    def show(self, line: dict[str, Any]) -> None:
        text = self._figures.text(line)
        is_due = time.monotonic() - self._told_at_s >= LINE_INTERVAL_S
        if is_due or "valid_loss" in line or line["step"] == self._figures.last_step:
            self._told_at_s = time.monotonic()
            validation = f", validation {line['valid_loss']:.3f}" if "valid_loss" in line else ""
            where = f"step {line['step']}/{self._figures.last_step}"
            self.say(f"{where}: {text}{validation}")
            if remark := self._figures.remark():
                self.say(remark)

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, figures: _Figures, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
        )  # 80 characters in all
        self._figures = figures
        self._progress = Progress(*columns, console=Console(file=stream), refresh_per_second=4)
        self._task = self._progress.add_task("", total=figures.last_step, completed=figures.first_step)
        self._progress.start()

    def show(self, line: dict[str, Any]) -> None:
        text = self._figures.text(line)
        self._progress.update(self._task, completed=line["step"], description=text)
        if "valid_loss" in line:
            told = f"step {line['step']}: loss {line['loss']:.3f}, validation {line['valid_loss']:.3f}"
            self.say(told)
        if remark := self._figures.remark():
            self.say(remark)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


def _clock(seconds: float) -> str:
    """3725 -> "1:02:05"; 65 -> "1:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
