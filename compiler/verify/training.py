"""`llmc verify` of a training program: execute it without its devices and hold it to its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .ascend import check_kernels, has_torch_npu
from .claims import WITHIN_2_PERCENT, Claim
from .dry import dry_runs
from .groups import AXES, OF_EXPERTS, ranks_along
from .order import find_hang
from .record import Record
from .traffic import compare, extrapolated, found_sums, planned_sums

if TYPE_CHECKING:
    from ..planner.claims import Figures, TrainClaims
    from ..planner.layout import Layout

Progress = Callable[[str], None]
DryRuns = Callable[..., Iterable[Record]]
MANY = 16
"""Ranks of an axis that are all played; of longer ones the first, the middle and the last."""


def check_training(
    folder: Path, claims: TrainClaims, *, progress: Progress, runs: DryRuns = dry_runs
) -> Iterator[Claim]:
    """What a training program for several devices sends, holds, and in which order its ranks meet."""
    layout = claims.layout
    for figures in claims.figures:
        progress(f"one step of rank {figures.rank}")
        record, sums = _step(folder, layout, figures, runs)
        of_rank = "" if len(claims.figures) == 1 else f" of rank {figures.rank}"
        for claim in compare(planned_sums(figures.traffic, layout, figures.rank), sums):
            yield replace(claim, name=claim.name + of_rank)
        yield from _states(record, figures)
    players = sorted(_players(layout))
    progress(f"the order of {len(players)} ranks' collectives")
    records = list(runs(folder, players, micro_batches=_few(layout), layers=2))
    hang = find_hang({each.rank: each.events for each in records})
    if claims.device == "npu" and has_torch_npu():
        progress("kernels of torch-npu")
        yield from check_kernels({name for each in records for name in each.ops})
    yield Claim("order", f"{len(players)} ranks, all kinds of groups among them, end together", "yes", hang or "yes")


def _step(
    folder: Path, layout: Layout, figures: Figures, runs: DryRuns
) -> tuple[Record, dict[tuple[str, str], tuple[int, int]]]:
    """A rank's step as the plan has it, from as few micro-batches as tell it."""
    several, few = layout.grad_accumulation, _few(layout)
    (record,) = runs(folder, [figures.rank], micro_batches=min(several, few))
    sums = found_sums(record, layout, kv_copies=figures.kv_copies)
    if several <= few:
        return record, sums
    counts = (few, few + layout.pp)
    (longer,) = runs(folder, [figures.rank], micro_batches=counts[1])
    more = found_sums(longer, layout, kv_copies=figures.kv_copies)
    return record, extrapolated(sums, more, counts=counts, micro_batches=several)


def _few(layout: Layout) -> int:
    """Micro-batches that tell about any number: a pipeline wants rounds of them, to be full; GPipe keeps all it has."""
    return layout.grad_accumulation if layout.pp > 1 and layout.schedule == "gpipe" else 2 * layout.pp


def _states(record: Record, figures: Figures) -> Iterator[Claim]:
    found = record.states
    assert found is not None
    rank = figures.rank
    yield Claim("states", f"weights of rank {rank}", figures.parameters, found.parameters, "bytes")
    yield Claim("states", f"gradients of rank {rank}", figures.gradients, found.gradients, "bytes")
    yield Claim("states", f"moments of rank {rank}", figures.optimizer, found.optimizer, "bytes")
    yield Claim("memory", f"most that tensors of rank {rank} take", figures.peak, found.peak, "bytes", WITHIN_2_PERCENT)


def _players(layout: Layout) -> set[int]:
    """Ranks along each axis through rank 0, so that every kind of group has members who meet."""
    axes = (*AXES, *(OF_EXPERTS if layout.ep > 1 else ()))
    return {rank for axis in axes for rank in _some(ranks_along(layout, 0, axis))}


def _some(ranks: Sequence[int]) -> Sequence[int]:
    return ranks if len(ranks) <= MANY else (ranks[0], ranks[len(ranks) // 2], ranks[-1])
