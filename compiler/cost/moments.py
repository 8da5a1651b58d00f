"""What an optimizer keeps of the parameters, and what ranks exchange for its step, to the byte (runtimes/pytorch/optimizers/).

    adamw      a first and a second moment                      sophia     a moment and a curvature
    lion       a momentum                                       muon       a momentum of the matrices of layers, else as adamw
    adafactor  of a matrix its row and column means, which every rank has; else a second moment

An average of the weights is one more number each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .stored import WIDE, Stored, Unit, held_by, shards_axis, shards_of

if TYPE_CHECKING:
    from ..planner.layout import Layout

NUMBERS = {"adamw": 2, "lion": 1, "sophia": 2}
"""Of optimizers that treat all parameters alike."""
CURVATURE_EVERY = 10
"""Steps of Sophia between two estimates, as in its paper: each takes one more micro-batch through the model."""


@dataclass(frozen=True)
class Kept:
    """Which optimizer, and whether it keeps an average."""

    optimizer: str
    has_average: bool = False

    @property
    def is_even(self) -> bool:
        """Whether all parameters have as many numbers."""
        return self.optimizer in NUMBERS

    @property
    def passes(self) -> float:
        """Micro-batches a step that go through the model beside those that it is trained on."""
        return 1 / CURVATURE_EVERY if self.optimizer == "sophia" else 0.0

    def of(self, tensor: Stored, *, held: int, in_layer: bool) -> int:
        """Bytes, where a rank has `held` elements of a parameter."""
        is_matrix = tensor.columns > 1
        if self.optimizer == "muon":
            numbers = held * (1 if in_layer and is_matrix else 2)
        elif self.optimizer == "adafactor":
            numbers = held // tensor.columns + tensor.columns if is_matrix else held
        else:
            numbers = held * NUMBERS[self.optimizer]
        return (numbers + self.has_average * held) * WIDE

    def even_bytes(self) -> float:
        """Bytes a parameter, of optimizers that treat all alike."""
        return float((NUMBERS[self.optimizer] + self.has_average) * WIDE)

    def mean_bytes(self, units: Iterable[Unit]) -> float:
        """Bytes a parameter, over the parameters of some units before ZeRO."""
        if self.is_even:
            return self.even_bytes()
        found = [(tensor, not unit.is_root) for unit in units for tensor in unit.tensors]
        total = sum(self.of(each, held=each.rows * each.columns, in_layer=in_layer) for each, in_layer in found)
        return total / max(1, sum(each.rows * each.columns for each, _ in found))

    def mean_flops(self, units: Iterable[Unit]) -> float:
        """Products in a step, a parameter: Muon's five iterations of x x' x and (x x')^2 x. `units`: of whole matrices."""
        found = [(tensor, unit.is_root) for unit in units for tensor in unit.tensors]
        if self.optimizer != "muon" or not found:
            return 0.0
        flops = sum(_flops_of_muon(each) for each, is_root in found if not is_root and each.columns > 1)
        return flops / sum(each.rows * each.columns for each, _ in found)


def _flops_of_muon(tensor: Stored) -> int:
    short, long = sorted(tensor.matrix)
    return 5 * (4 * short + 2 * short * short // long) * tensor.rows * tensor.columns


ADAMW = Kept("adamw")


@dataclass(frozen=True)
class Exchange:
    """What ranks that share parameters send each other in the optimizer's step."""

    axis: str
    kind: str
    num_bytes: int


def exchanges_of(
    kept: Kept, units: list[Unit], layout: Layout, *, values: int, shard_rank: int = 0
) -> Iterator[Exchange]:
    """In a step. `values`: bytes of a number in Muon's iterations."""
    if kept.optimizer == "muon":
        yield from (replace(each, num_bytes=each.num_bytes * values) for each in _deals(units, layout, shard_rank))
    if kept.optimizer == "adafactor":
        yield from (replace(each, num_bytes=each.num_bytes * WIDE) for each in _sums(units, layout, shard_rank))


def _deals(units: list[Unit], layout: Layout, shard_rank: int) -> Iterator[Exchange]:
    """In numbers. Matrices of layers go to ranks of ZeRO and of tp, the largest first, one each in a round, and their parts back;
    chunks are as long as the longest of the round. ZeRO leaves whole matrices in a stack."""
    together: dict[tuple[str, int], list[tuple[int, Stored]]] = {}
    for unit in (unit for unit in units if not unit.is_root):
        shards = shards_of(layout, is_expert=unit.is_expert) if layout.zero else 1
        axis = "same_experts" if unit.is_expert else shards_axis(layout)
        for tensor in unit.tensors:
            if tensor.columns > 1:
                key, size = (axis, shards), tensor.rows * tensor.columns
                if tensor.is_stack:
                    key, size = ("", 1), held_by(tensor, layout, shard_rank)
                together.setdefault(key if key[1] > 1 else ("", 1), []).append((size, tensor))
    for (axis, shards), found in together.items():
        found.sort(key=lambda each: (-each[0], each[1].rows))
        for start in range(0, len(found), shards * layout.tp):
            dealt = found[start : start + shards * layout.tp]
            if shards > 1:
                longest = max(math.ceil(each.rows / shards) * each.columns for _, each in dealt)
                yield from 2 * [Exchange(axis, "all_to_all", shards * math.ceil(len(dealt) / shards) * longest)]
            if layout.tp > 1:
                yield from 2 * [Exchange("tp", "all_to_all", layout.tp * dealt[0][0])]


def _sums(units: list[Unit], layout: Layout, shard_rank: int) -> Iterator[Exchange]:
    """In numbers: of the weight's squares, a matrix' columns and rows; then of the update's squares."""
    tensors = [tensor for unit in units for tensor in unit.tensors]
    if layout.tp > 1:
        cut = [each for each in tensors if not each.is_whole]
        yield Exchange("tp", "all_reduce", sum(_over_tp(each, held_by(each, layout, shard_rank)) for each in cut))
        yield Exchange("tp", "all_reduce", len(cut))
    if layout.zero and layout.shards > 1:
        sums = sum(each.columns + 2 if each.columns > 1 else 1 for each in tensors)
        yield Exchange(shards_axis(layout), "all_reduce", sums)
        yield Exchange(shards_axis(layout), "all_reduce", len(tensors))


def _over_tp(tensor: Stored, held: int) -> int:
    if tensor.columns == 1:
        return 1
    return 1 + held // tensor.columns if tensor.has_columns else tensor.columns + 2
