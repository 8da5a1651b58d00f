"""A run of several processes: rank 0 writes what people read, and all stop at the same step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from ...common.stop import StopRequest
from ...common.training_run import RunPlan, TrainingRun
from .mesh import is_first_rank


class SharedRun(TrainingRun):
    """TrainingRun of all ranks: metrics, curve and bar are rank 0's, a signal to any rank ends all of them."""

    def __init__(self, plan: RunPlan, run_dir: Path, *, first_step: int, max_steps: int | None) -> None:
        super().__init__(plan, run_dir, first_step=first_step, max_steps=max_steps)
        self._is_stopping = False

    def __enter__(self) -> SharedRun:
        if is_first_rank():
            super().__enter__()
        else:
            self._stop = StopRequest().__enter__()
        dist.barrier()  # what an earlier run left is put aside before anything is written
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if is_first_rank():
            super().__exit__(kind, *rest)
        else:
            self._stop.__exit__()

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def steps(self) -> Iterator[int]:
        for step in range(self.first_step + 1, self.last_step + 1):
            self._is_stopping = _any(self._stop.requested)
            yield step
            if self.is_stopping:
                return

    def log(self, step: int, figures: dict[str, float]) -> None:
        if is_first_rank():
            super().log(step, figures)


def _any(fact: bool) -> bool:
    """Whether it holds on some rank."""
    held = torch.tensor(int(fact))
    dist.all_reduce(held, op=dist.ReduceOp.MAX)  # on the CPU, by gloo
    return bool(held.item())
