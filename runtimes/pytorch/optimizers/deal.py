"""Matrices that no rank has all of are dealt out: each rank gets some of them whole, works on them and gives every rank its part back.

ZeRO leaves a rank some of the rows, tp some of the rows or columns before that. In a round there are as many matrices as ranks
of both. The n-th goes to rank n mod z of the z of ZeRO, which puts its rows together, and on to rank n / z of tp, which puts
together what its neighbours have. Nothing is worked out twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..parallel.cuts import Cuts
from .local import Shards

Work = Callable[[str, Tensor], Tensor]
"""(name, whole matrices) -> what becomes of them, in the same shape."""


@dataclass(frozen=True)
class Held:
    """What a rank has of a matrix [R, C], or of a stack [E, R, C] of them."""

    name: str
    shape: tuple[int, ...]
    """Of what ranks of ZeRO have together."""
    tensor: Tensor


def round_size(shards: Shards | None, cuts: Cuts | None) -> int:
    """Matrices that are worked on at a time: one a rank."""
    return (1 if shards is None else shards.size) * (1 if cuts is None else cuts.tp.size)


def worked_on(held: Sequence[Held], work: Work, *, shards: Shards | None, cuts: Cuts | None) -> list[Tensor]:
    """This rank's parts of what `work` makes of the matrices of a round. `cuts`: those of tp, if it has several ranks."""
    longest = max(math.prod(each.shape) for each in held)
    if shards is None:
        return _over_tp(held, work, cuts, longest=longest, like=held[0].tensor)
    lengths = [[_length(each.shape, shards, rank) for rank in range(shards.size)] for each in held]
    size, slots = shards.size, math.ceil(len(held) / shards.size)
    chunks = held[0].tensor.new_zeros(size, slots, max(max(each) for each in lengths))  # equal ones, as gloo wants them
    for number, each in enumerate(held):
        chunks[number % size, number // size, : each.tensor.numel()] = _rows_first(each.tensor).flatten()
    received = torch.empty_like(chunks)
    dist.all_to_all_single(received, chunks, group=shards.group)
    chunks.zero_()
    mine = []
    for rows, each, run in zip(
        received.unbind(1), held[shards.rank :: size], lengths[shards.rank :: size], strict=False
    ):
        flat = torch.cat([chunk[:length] for chunk, length in zip(rows, run, strict=True)])
        mine.append(Held(each.name, each.shape, _rows_first(flat.view(_swapped(each.shape)))))
    results = _over_tp(mine, work, cuts, longest=longest, like=chunks)
    for slot, (result, run) in enumerate(zip(results, lengths[shards.rank :: size], strict=True)):
        for rank, part in enumerate(_rows_first(result).flatten().split(run)):
            chunks[rank, slot, : part.numel()] = part
    dist.all_to_all_single(received, chunks, group=shards.group)
    parts = []
    for number, each in enumerate(held):
        part = received[number % size, number // size, : each.tensor.numel()]
        parts.append(_rows_first(part.view(_swapped(each.tensor.shape))))
    return parts


def _over_tp(held: Sequence[Held], work: Work, cuts: Cuts | None, *, longest: int, like: Tensor) -> list[Tensor]:
    """The same of at most one matrix a rank of tp, whose rows are all here. Who has none takes part: others count on it."""
    if cuts is None:
        return [work(each.name, each.tensor) for each in held]
    tp = cuts.tp
    chunks = like.new_zeros(tp.size, longest)
    for chunk, each in zip(chunks, held, strict=False):
        chunk[: each.tensor.numel()] = each.tensor.flatten()
    received = torch.empty_like(chunks)
    dist.all_to_all_single(received, chunks, group=tp.group)
    if tp.rank < len(held):
        mine = held[tp.rank]
        numel, shape = mine.tensor.numel(), mine.tensor.shape
        result = work(mine.name, _joined([chunk[:numel].view(shape) for chunk in received], mine.name, cuts))
        for rows, box in _boxes([chunk[:numel].view(shape) for chunk in chunks], mine.name, cuts):
            rows.copy_(result[box])
    dist.all_to_all_single(received, chunks, group=tp.group)
    return [chunk[: each.tensor.numel()].view(each.tensor.shape) for chunk, each in zip(received, held, strict=False)]


def _joined(parts: Sequence[Tensor], name: str, cuts: Cuts) -> Tensor:
    """The whole of what each rank of tp has a part of; what several have is the same."""
    *stack, _, _ = parts[0].shape
    whole = parts[0].new_empty(*stack, *cuts.parts_of_matrix(name, parts[0].shape, rank=0)[0].whole)
    for rows, box in _boxes(parts, name, cuts):
        whole[box] = rows
    return whole


def _boxes(parts: Sequence[Tensor], name: str, cuts: Cuts) -> Iterator[tuple[Tensor, tuple[Any, ...]]]:
    """(rows of a rank's part, the box of the whole that they are), for all ranks of tp."""
    for rank, tensor in enumerate(parts):
        for part in cuts.parts_of_matrix(name, tensor.shape, rank=rank):
            row, column = part.offset
            rows = tensor.narrow(-2, part.start, part.stop - part.start)
            yield rows, (..., slice(row, row + rows.shape[-2]), slice(column, column + rows.shape[-1]))


def _length(shape: Sequence[int], shards: Shards, rank: int) -> int:
    """Elements that a rank has of a parameter of this whole shape."""
    return shards.run(shape[-2], rank) * (math.prod(shape) // shape[-2])


def _rows_first(matrices: Tensor) -> Tensor:
    """[E, R, C] -> [R, E, C], and back: the rows of all experts that a rank has lie together. A matrix stays as it is."""
    return matrices.transpose(0, -2)


def _swapped(shape: Sequence[int]) -> list[int]:
    return [shape[-2], *shape[:-2], shape[-1]]
