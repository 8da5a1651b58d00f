"""What an optimizer keeps of the parameters, and what ranks exchange for its step, to the byte (runtimes/pytorch/optimizers/).

    adamw      a first and a second moment                      sophia     a moment and a curvature
    lion       a momentum                                       muon       a momentum of the matrices of layers, else as adamw
    adafactor  of a matrix its row and column means, which every rank has; else a second moment

An average of the weights is one more number each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .stored import WIDE, Stored, Unit, shards_of

if TYPE_CHECKING:
    from ..planner.layout import Layout

NUMBERS = {"adamw": 2, "lion": 1, "sophia": 2}
"""Of optimizers that treat all parameters alike."""


@dataclass(frozen=True)
class Kept:
    """Which optimizer, and whether it keeps an average."""

    optimizer: str
    has_average: bool = False

    @property
    def is_even(self) -> bool:
        """Whether all parameters have as many numbers."""
        return self.optimizer in NUMBERS

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
        """Products in a step, a parameter: Muon's five iterations of x x' x and (x x')^2 x."""
        found = [(tensor, unit.is_root) for unit in units for tensor in unit.tensors]
        if self.optimizer != "muon" or not found:
            return 0.0
        sides = [sorted((each.rows, each.columns)) for each, is_root in found if not is_root and each.columns > 1]
        flops = sum(5 * (4 * short * short * long + 2 * short**3) for short, long in sides)
        return flops / sum(each.rows * each.columns for each, _ in found)


ADAMW = Kept("adamw")


@dataclass(frozen=True)
class Exchange:
    """What ranks that share parameters send each other in the optimizer's step."""

    is_of_experts: bool
    kind: str
    num_bytes: int


def exchanges_of(kept: Kept, units: list[Unit], layout: Layout, *, values: int) -> Iterator[Exchange]:
    """In a step, on every rank alike. `values`: bytes of a number in Muon's iterations."""
    if not layout.zero:
        return
    for is_expert in (False, True):
        shards = shards_of(layout, is_expert=is_expert)
        together = [unit for unit in units if unit.is_expert == is_expert]
        if shards > 1 and together and kept.optimizer == "muon":
            yield from (Exchange(is_expert, "all_to_all", size * values) for size in _deals(together, shards=shards))
        if shards > 1 and together and kept.optimizer == "adafactor":
            tensors = [tensor for unit in together for tensor in unit.tensors]
            sums = sum(tensor.columns + 2 if tensor.columns > 1 else 1 for tensor in tensors)
            yield Exchange(is_expert, "all_reduce", sums * WIDE)
            yield Exchange(is_expert, "all_reduce", len(tensors) * WIDE)


def _deals(units: list[Unit], *, shards: int) -> Iterator[int]:
    """Numbers of each exchange. Matrices of layers go to ranks, the largest first, one each in a round, and their rows back;
    chunks are as long as the longest of the round."""
    layers = [tensor for unit in units if not unit.is_root for tensor in unit.tensors]
    found = [tensor for tensor in layers if tensor.columns > 1 and not tensor.is_stack]
    found.sort(key=lambda tensor: (-tensor.rows * tensor.columns, tensor.rows))
    for start in range(0, len(found), shards):
        longest = max(math.ceil(each.rows / shards) * each.columns for each in found[start : start + shards])
        yield from (shards * longest, shards * longest)
