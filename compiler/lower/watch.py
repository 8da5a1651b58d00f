"""What a training program watches itself for, and which specs ask for a watch that their program does not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.training import BadStep, Train
    from ..planner.plan import TrainPlan


@dataclass(frozen=True)
class WatchView:
    """Of train.py, under the name `t.watch`; None of a field: its code is not there."""

    policy: str | None
    """What is done about a step that diverges."""
    arguments: tuple[str, ...]
    """Of LossWatch, as source."""
    hang_s: float | None
    stragglers_every: int | None

    @property
    def is_any(self) -> bool:
        return self.policy is not None or self.hang_s is not None or self.stragglers_every is not None

    @property
    def rolls_back(self) -> bool:
        return self.policy == "roll_back"

    @property
    def lowers_rate(self) -> bool:
        return self.policy == "lower_rate"


def lower_watch(train: Train) -> WatchView:
    watch = train.watch
    return WatchView(
        policy=watch.divergence.policy if watch.divergence is not None else None,
        arguments=tuple(_arguments(watch.divergence)) if watch.divergence is not None else (),
        hang_s=watch.hang_s,
        stragglers_every=watch.stragglers_every_steps,
    )


def _arguments(divergence: BadStep) -> Iterator[str]:
    yield f'"{divergence.policy}"'
    yield f"spike_ratio={divergence.spike_ratio}"
    yield f"window_steps={divergence.window_steps}"
    yield f"most_in_a_row={divergence.most_in_a_row}"
    if divergence.policy == "lower_rate":
        yield f"lr_ratio={divergence.lr_ratio}"
        yield f"lr_steps={divergence.lr_steps}"


def watch_faults(train: Train, plan: TrainPlan | None, *, kind: str) -> Iterator[tuple[str, str]]:
    """(field of `train.watch`, message) of what the program could not keep its word about."""
    watch = train.watch
    asked = [name for name in ("divergence", "hang_s", "stragglers_every_steps") if getattr(watch, name) is not None]
    if kind == "tpu":
        yield from ((name, f"`watch.{name}` is not lowered for TPUs yet; for GPUs and CPUs it is") for name in asked)
        return
    if plan is None:
        return
    if plan.layout.devices == 1:
        for name in asked:
            if name != "divergence":
                yield name, f"`watch.{name}` is about ranks that wait for each other, and the plan has one device"
    slowest_s = plan.predicted.step_time_high_s
    if watch.hang_s is not None and watch.hang_s < slowest_s:
        yield "hang_s", f"a step may take {slowest_s:.3g} s, and `watch.hang_s: {watch.hang_s:g}` would end it"
