"""A run of several processes: rank 0 writes what people read, and all stop at the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ...common.stop import StopRequest
from ...common.training_run import RunPlan, TrainingRun
from .hang import HangWatch
from .mesh import is_first_rank
from .stragglers import Stragglers, words


class SharedRun(TrainingRun):
    """TrainingRun of all ranks: metrics, curve and bar are rank 0's, a signal to any rank ends all of them.

    `hang_s` and `stragglers_every`: see hang.py and stragglers.py; None: not watched.
    """

    def __init__(
        self,
        plan: RunPlan,
        run_dir: Path,
        *,
        first_step: int,
        max_steps: int | None,
        is_watched: bool = False,
        hang_s: float | None = None,
        stragglers_every: int | None = None,
    ) -> None:
        super().__init__(plan, run_dir, first_step=first_step, max_steps=max_steps, is_watched=is_watched)
        self._is_stopping = False
        self._hangs = HangWatch(run_dir, hang_s=hang_s) if hang_s is not None else None
        self._stragglers = Stragglers(every=stragglers_every) if stragglers_every is not None else None

    def __enter__(self) -> SharedRun:
        if is_first_rank():
            super().__enter__()
        else:
            self._stop = StopRequest().__enter__()
        dist.barrier()  # what an earlier run left is put aside before anything is written
        if self._hangs is not None:
            self._hangs.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._hangs is not None:
            self._hangs.stop()
        if self._stragglers is not None:
            self._stragglers.stop()
        if is_first_rank():
            super().__exit__(kind, *rest)
        else:
            self._stop.__exit__()

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def begin_step(self) -> None:
        if self._hangs is not None:
            self._hangs.beat(self.step)
        self._is_stopping = _any(self._stop.requested)
        if self._stragglers is not None:
            self._stragglers.begin()

    def log(self, step: int, figures: dict[str, float]) -> None:
        if is_first_rank():
            super().log(step, figures)
        if self._stragglers is not None and (report := self._stragglers.report(step)):
            self.note(report, words(report))

    def note(self, line: dict[str, Any], text: str) -> None:
        if is_first_rank():
            super().note(line, text)

    def go_back(self, step: int) -> None:
        if is_first_rank():
            super().go_back(step)
        self.step = step


def _any(fact: bool) -> bool:
    """Whether it holds on some rank."""
    held = torch.tensor(int(fact))
    dist.all_reduce(held, op=dist.ReduceOp.MAX)  # on the CPU, by gloo
    return bool(held.item())
