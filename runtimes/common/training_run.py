"""One run of a training program as people see it: metrics, events, a live bar, a loss curve, a clean stop.

runs/<name>/
    metrics.jsonl       a line a step: step, loss, lr, grad_norm, tokens_per_s, and valid_loss where it was taken
    events/             the same for TensorBoard
    loss.png            the loss curve, drawn at the end
    report.html         the curve and the figures in one file
    watch.jsonl         what a watched run decided and noticed
    metrics.prom        the latest figures of a watched run, for Prometheus (exposition.py)
    hangs/              a report for each time that a rank did not come back
    checkpoints/        see runtimes/pytorch/checkpoint.py
    data/               the prepared corpus
    earlier-1/ …        what a run that started anew found here
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .events import EventLog
from .exposition import Exposition
from .metrics import MetricsLog
from .report import write_report
from .stop import StopRequest
from .training_bar import training_bar

OWN = ("metrics.jsonl", "events", "loss.png", "report.html", "watch.jsonl", "metrics.prom", "hangs", "checkpoints")
"""What belongs to one run, and is put aside when another starts in its folder; the corpus stays."""


@dataclass(frozen=True)
class RunPlan:
    """What the plan says about a run. `peak_flops_per_s` is the device's, in the format of the matrix products."""

    name: str
    steps: int
    flops_per_token: float
    peak_flops_per_s: float

    def mfu(self, tokens_per_s: float) -> float:
        """Model FLOPs utilisation: the share of the device's peak that the model's own arithmetic comes to."""
        return tokens_per_s * self.flops_per_token / self.peak_flops_per_s

    def mfu_words(self, tokens_per_s: float) -> str:
        share = self.mfu(tokens_per_s)
        return f"MFU {100 * share:.0f} %" if share <= 1 else "MFU > 100 %"

    def remark(self, tokens_per_s: float) -> str | None:
        """What is told of a speed that the spec's peak does not allow."""
        if self.mfu(tokens_per_s) <= 1:
            return None
        peak = f"{self.peak_flops_per_s / 1e12:,.3g} TFLOP/s"
        return f"faster than the {peak} that the spec gives this machine: `llmc doctor --calibrate` measures it"


class TrainingRun:
    """A context manager around the training loop: `for step in run.steps(): …; run.log(step, {"loss": …})`."""

    def __init__(
        self, plan: RunPlan, run_dir: Path, *, first_step: int, max_steps: int | None, is_watched: bool = False
    ) -> None:
        """`first_step` is the number of steps done before, 0 for a new run. `is_watched`: it takes notes and exports metrics."""
        self.plan, self.run_dir, self.first_step, self.is_watched = plan, run_dir, first_step, is_watched
        self.last_step = min(plan.steps, max_steps or plan.steps)
        self.step = first_step

    def __enter__(self) -> TrainingRun:
        if self.first_step == 0:
            put_aside(self.run_dir)
        elif self.first_step >= self.last_step:
            print(f"the run is at step {self.first_step} of {self.last_step}: nothing is left to do", file=sys.stderr)
        else:
            print(f"resuming after step {self.first_step}", file=sys.stderr)
        self._stop = StopRequest().__enter__()
        self._metrics = MetricsLog(self.run_dir / "metrics.jsonl", last_step=self.first_step)
        self._events = EventLog(self.run_dir / "events", last_step=self.first_step)
        if self.is_watched:
            self._notes = MetricsLog(self.run_dir / "watch.jsonl", last_step=self.first_step)
            lines = [*self._metrics.lines[-1:], *self._notes.lines]
            self._exposition = Exposition(self.run_dir / "metrics.prom", self.plan.name, lines)
        if self._events.problem:
            print(f"warning: {self._events.problem}", file=sys.stderr)
        self._bar = training_bar(self.plan, first_step=self.first_step, last_step=self.last_step)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        self._metrics.close()
        self._events.close()
        if self.is_watched:
            self._notes.close()
        self._stop.__exit__()
        if kind is None and self._metrics.lines:
            write_report(self.run_dir, self.plan, self._metrics.lines)

    @property
    def is_stopping(self) -> bool:
        """Whether a signal asked for the end: the step at hand is the last one."""
        return self._stop.requested

    def steps(self) -> Iterator[int]:
        """The steps to do, numbered from 1; ends early when a signal asks for it."""
        while self.step < self.last_step:
            self.step += 1
            self.begin_step()
            yield self.step
            if self.is_stopping:
                return

    def begin_step(self) -> None:
        """Before each step: several processes have something to agree on here."""

    def is_last(self, step: int) -> bool:
        """Whether nothing comes after this step."""
        return step == self.last_step or self.is_stopping

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Record the figures of a step that is done."""
        line = {"step": step, **figures}
        self._metrics.append(line)
        self._events.append(line)
        self._bar.show(line)
        if self.is_watched:
            self._exposition.add(line)
            self._exposition.write()

    def note(self, line: dict[str, Any], text: str) -> None:
        """Record what a watched run decided or noticed; `text` says it to people."""
        self._notes.append(line)
        self._exposition.add(line)
        self._exposition.write()
        self._bar.say(text)

    def go_back(self, step: int) -> None:
        """The step after `step` is the next one; what was logged beyond it is void, and notes stay."""
        self.step = step
        self._metrics.go_back(step)
        self._events.go_back(step)


def put_aside(run_dir: Path) -> None:
    """Move what an earlier run left here into `earlier-N`, so that starting anew never destroys work."""
    found = [run_dir / name for name in OWN if (run_dir / name).exists()]
    if not found:
        return
    number = 1
    while (run_dir / f"earlier-{number}").exists():
        number += 1
    aside = run_dir / f"earlier-{number}"
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    print(f"{run_dir} held an earlier run: it is in {aside.name} now (--resume goes on with a run)", file=sys.stderr)
