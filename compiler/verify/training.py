"""`llmc verify` of a training program: execute it without its devices and hold it to its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..planner.enumerate import SPLITS_BACKWARD
from .ascend import check_kernels, has_torch_npu
from .claims import WITHIN_2_PERCENT, Claim
from .dry import Job, dry_runs
from .groups import AXES, OF_EXPERTS, ranks_along
from .order import find_hang
from .record import Record
from .traffic import Sums, compare, extrapolated, found_sums, planned_sums

if TYPE_CHECKING:
    from ..planner.claims import Figures, TrainClaims
    from ..planner.layout import Layout

Progress = Callable[[str], None]
DryRuns = Callable[[Path, Sequence[Job]], Iterable[list[Record]]]
MANY = 16
"""Ranks of an axis that are all played; of longer ones the first, the middle and the last."""


def check_training(
    folder: Path, claims: TrainClaims, *, progress: Progress, runs: DryRuns = dry_runs
) -> Iterator[Claim]:
    """What a training program for several devices sends, holds, and in which order its ranks meet."""
    layout = claims.layout
    counts = _counts(layout)
    players = sorted(_players(layout))
    progress(f"one step of {_ranks(claims.figures)}the order of {len(players)} ranks' collectives")
    steps = [Job((figures.rank,), counts, device=claims.device) for figures in claims.figures]
    found = iter(runs(folder, (*steps, *_order(layout, players, device=claims.device))))
    for figures in claims.figures:
        records = next(found)
        of_rank = "" if len(claims.figures) == 1 else f" of rank {figures.rank}"
        planned = planned_sums(figures.traffic, layout, figures.rank)
        for claim in compare(planned, _sums(records, layout, counts, kv_copies=figures.kv_copies)):
            yield replace(claim, name=claim.name + of_rank)
        yield from _states(records[0], figures, is_offloaded=layout.offload is not None)
    records = [record for group in found for record in group]
    hang = find_hang({each.rank: each.events for each in records})
    if claims.device == "npu" and has_torch_npu():
        progress("kernels of torch-npu")
        yield from check_kernels({name for each in records for name in each.ops})
    yield Claim("order", f"{len(players)} ranks, all kinds of groups among them, end together", "yes", hang or "yes")


def _ranks(figures: Sequence[Figures]) -> str:
    return "".join(f"rank {each.rank}, " for each in figures)


def _order(layout: Layout, players: Sequence[int], *, device: str) -> Iterator[Job]:
    """The ranks that are played against one another, in two halves."""
    layers = 1 if layout.pp > 1 else 2
    half = (len(players) + 1) // 2
    for ranks in (players[:half], players[half:]):
        if ranks:
            yield Job(tuple(ranks), _counts(layout)[:1], layers=layers, device=device)


def _sums(records: Sequence[Record], layout: Layout, counts: tuple[int, ...], *, kv_copies: int) -> Sums:
    """A step's traffic as the plan has it, from the steps that were run."""
    more, *fewer = (found_sums(each, layout, kv_copies=kv_copies) for each in records)
    if not fewer:
        return more
    return extrapolated(fewer[0], more, counts=(counts[1], counts[0]), micro_batches=layout.grad_accumulation)


def _counts(layout: Layout) -> tuple[int, ...]:
    """Micro-batches of the steps that tell about any number: one that has all that comes up, and a shorter one.

    1F1B has it all when it turns once more than its ranks; other schedules want full rounds, and GPipe keeps all that there are.
    """
    several = layout.grad_accumulation
    few, fewer = (
        (layout.pp + 1, layout.pp) if layout.schedule == "1f1b" or layout.pp == 1 else (2 * layout.pp, layout.pp)
    )
    if several <= few or (layout.schedule == "gpipe" and layout.pp > 1):
        return (several,)
    return (few, few + layout.pp) if layout.schedule in SPLITS_BACKWARD and layout.pp > 1 else (few, fewer)


def _states(record: Record, figures: Figures, *, is_offloaded: bool) -> Iterator[Claim]:
    found = record.states
    assert found is not None
    rank = figures.rank
    yield Claim("states", f"weights of rank {rank}", figures.parameters, found.parameters, "bytes")
    yield Claim("states", f"gradients of rank {rank}", figures.gradients, found.gradients, "bytes")
    where = ", on the host" if is_offloaded else ""
    yield Claim("states", f"moments of rank {rank}{where}", figures.optimizer, found.optimizer, "bytes")
    yield Claim("memory", f"most that tensors of rank {rank} take", figures.peak, found.peak, "bytes", WITHIN_2_PERCENT)


def _players(layout: Layout) -> set[int]:
    """Ranks along each axis through rank 0, so that every kind of group has members who meet."""
    axes = (*AXES, *(OF_EXPERTS if layout.ep > 1 else ()))
    return {rank for axis in axes for rank in _some(ranks_along(layout, 0, axis))}


def _some(ranks: Sequence[int]) -> Sequence[int]:
    return ranks if len(ranks) <= MANY else (ranks[0], ranks[len(ranks) // 2], ranks[-1])
