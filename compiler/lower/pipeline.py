"""The view of a pipeline: which rank has which stages, and which of torch's schedules runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cost.pipeline import stages_of_rank
from ..planner.enumerate import SPLITS_BACKWARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...spec.document import Spec
    from ..cost.pipeline import Stage
    from ..planner.layout import Layout, Schedule

SCHEDULES: dict[Schedule, str] = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved_1f1b": "ScheduleInterleaved1F1B",
    "zero_bubble": "ScheduleInterleavedZeroBubble",
    "dualpipe": "ScheduleDualPipeV",
}
"""Classes of torch.distributed.pipelining. ScheduleInterleavedZeroBubble with one stage a rank is ZB-H1 (Qi 2024)."""

_WORDS: dict[Schedule, str] = {
    "gpipe": "all forward passes come before all backward passes",
    "1f1b": "forward and backward passes take turns",
    "interleaved_1f1b": "forward and backward passes take turns",
    "zero_bubble": "gradients of weights are computed where a rank would wait",
    "dualpipe": "stages lie in a V, and gradients of weights are computed where a rank would wait",
}


def pipeline_faults(spec: Spec, layout: Layout) -> Iterator[str]:
    """What torch's schedules, or our use of them, do not do."""
    if layout.pp == 1:
        return
    schedule, steps, ranks, rounds = layout.schedule, layout.grad_accumulation, layout.pp, layout.virtual_stages
    if schedule == "dualpipe" and rounds != 2:
        yield f"dualpipe is lowered with its stages in a V, two a rank, and virtual_stages is {rounds}"
    if schedule in ("gpipe", "1f1b") and rounds > 1:
        yield f"{schedule} of {rounds} stages a rank is not lowered; interleaved_1f1b is"
    fewest = {"1f1b": ranks, "dualpipe": 2 * ranks}.get(schedule, 1)
    if steps < fewest:
        yield f"{schedule} over {ranks} ranks needs {fewest} micro-batches or more, and a step has {steps}"
    if schedule in ("interleaved_1f1b", "zero_bubble") and steps % max(1, steps // ranks):
        yield f"{schedule} needs micro-batches in {steps // ranks} rounds of equal size, and a step has {steps}"
    if schedule in SPLITS_BACKWARD and layout.zero == 3 and layout.shards > 1:
        yield f"{schedule} keeps weights gathered between two passes over them; zero 3 frees them, zero 1 and 2 do not"
    if schedule in SPLITS_BACKWARD and layout.recompute != "none":
        yield f"{schedule} goes through each layer twice on its way back, and would compute it again each time; without recompute it is lowered"


@dataclass(frozen=True)
class PipelineView:
    size: int
    schedule: str
    """Name of the class."""
    words: str
    """What the schedule does."""
    ranks: tuple[tuple[Stage, ...], ...]
    num_stages: int
    num_layers: int
    hidden_size: int
    is_tied: bool
    is_in_v: bool
    """Whether the first stage and the last are on the same rank."""

    @property
    def has_two_embeddings(self) -> bool:
        """Whether two ranks hold the embedding."""
        return self.is_tied and not self.is_in_v

    def comment(self, rank: int) -> str:
        """What a rank has beside layers."""
        first = ["the embedding"] if any(stage.has_embed for stage in self.ranks[rank]) else []
        last = ["norm, head, loss"] if any(stage.has_head for stage in self.ranks[rank]) else []
        return "; ".join(first + last)


def pipeline_of(spec: Spec, layout: Layout) -> PipelineView | None:
    if layout.pp == 1:
        return None
    ranks = [stages_of_rank(layout, num_layers=spec.model.num_layers, rank=rank) for rank in range(layout.pp)]
    return PipelineView(
        size=layout.pp,
        schedule=SCHEDULES[layout.schedule],
        words=_WORDS[layout.schedule],
        ranks=tuple(ranks),
        num_stages=sum(map(len, ranks)),
        num_layers=spec.model.num_layers,
        hidden_size=spec.model.hidden_size,
        is_tied=spec.model.tie_embeddings,
        is_in_v=layout.schedule == "dualpipe",
    )
