"""How parameters lie on the devices: which axes cut which dim, and whose rows lie rank by rank.

Queries, keys and values are one matrix, one below the other. Cut over tp as it stands, a device would hold all queries and
another all keys. So with tp the rows lie *rank by rank*: what rank 0 has of each, then what rank 1 has. Checkpoints have them
one below the other, as every program does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..pytorch.parallel.cuts import Part, Piece, Section
from . import device
from .device import Spread


@dataclass(frozen=True)
class Spreads:
    """The tables of a program: the end of a parameter's name -> its spread; parameters without an entry are whole."""

    table: Mapping[str, Spread]
    sections: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The end of a module's name -> the rows of the tensors that lie one below the other in it."""
    tp: int = 1

    def of(self, name: str, dims: int) -> Spread:
        for ending, spread in self.table.items():
            if name == ending or name.endswith(f".{ending}"):
                return spread
        return (None,) * dims

    def sections_of(self, name: str) -> tuple[int, ...]:
        """() where rows lie as in checkpoints."""
        module = name.rpartition(".")[0]
        for ending, sizes in self.sections.items():
            if module == ending or module.endswith(f".{ending}"):
                return sizes
        return ()

    def runs(self, name: str) -> Iterator[tuple[int, int, int, Section]]:
        """(row on the devices, row in a checkpoint, rows, section) of each run, in the order of the devices."""
        sizes, row = self.sections_of(name), 0
        for rank in range(self.tp):
            for number, size in enumerate(sizes):
                held, first = size // self.tp, sum(sizes[:number])
                yield row, first + rank * held, held, Section(number, first_row=first, num_rows=size)
                row += held

    def rank_by_rank(self, name: str, whole: Tensor) -> Tensor:
        """A tensor as checkpoints have it -> as it lies on the devices."""
        if not self.sections_of(name):
            return whole
        return torch.cat([whole[first : first + rows] for _, first, rows, _ in self.runs(name)])

    def one_below_the_other(self, name: str, held: Tensor) -> Tensor:
        """A tensor as it lies on the devices -> as checkpoints have it."""
        whole = held.clone()
        for row, first, rows, _ in self.runs(name):
            whole[first : first + rows] = held[row : row + rows]
        return whole

    def place(self, name: str, whole: Tensor) -> Tensor:
        """A tensor as checkpoints have it, from the CPU onto the devices."""
        return device.placed(self.rank_by_rank(name, whole), self.of(name, whole.dim()))

    def zeros(self, name: str, shape: Tensor) -> Tensor:
        """Zeros of this shape, cut like the parameter of that name."""
        return device.placed(torch.zeros(shape.shape), self.of(name, shape.dim()))

    def pieces(self, name: str, tensor: Tensor, *, of: Tensor | None = None) -> Iterator[Piece]:
        """What the devices of this host hold of a parameter or a moment, on the CPU: each box once. All moments are cut as their parameters."""
        del of
        for shard in device.local_shards(tensor):
            if shard.replica_id == 0:
                yield from self.pieces_of(name, shard.unpadded_data, shard.indices, tuple(tensor.shape))

    def pieces_of(self, name: str, held: Tensor, indices: Any, shape: tuple[int, ...]) -> Iterator[Piece]:
        """The boxes of whole tensors that a shard consists of."""
        begin = first_indices(indices, shape)
        if not self.sections_of(name):
            yield Piece(name, Part(0, shape[0] if shape else 1, shape, (0,) * len(shape)), begin, held, copies=1)
            return
        for row, first, rows, section in self.runs(name):
            start, stop = max(row, begin[0]), min(row + rows, begin[0] + held.shape[0])
            if start < stop:
                at = first + start - row
                part = Part(row, row + rows, shape, (first, *begin[1:]), section)
                yield Piece(name, part, (at, *begin[1:]), held.narrow(0, start - begin[0], stop - start), copies=1)


def first_indices(indices: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where a shard begins in its tensor; torch_xla names the whole of one with an Ellipsis."""
    if indices is Ellipsis:
        return (0,) * len(shape)
    return tuple(each.start or 0 for each in indices)


def whole_piece(name: str, tensor: Tensor) -> Piece:
    """A tensor that is all there."""
    return Piece(name, Part(0, len(tensor), tuple(tensor.shape), (0,) * tensor.dim()), (0,) * tensor.dim(), tensor, 1)


Make = Callable[[str, Tensor], Tensor]
"""Name of a parameter and a meta tensor of its shape -> the parameter on the devices."""


def take_weights(model: nn.Module, spreads: Spreads, make: Make) -> None:
    """Put parameters in the place of those of a model on the meta device. Their gradients are cut as they are."""
    for name, shape in list(model.named_parameters()):
        weight = nn.Parameter(make(name, shape.detach()))
        spread = spreads.of(name, weight.dim())
        weight.register_hook(lambda grad, spread=spread: _annotated(grad, spread))
        module, _, own = name.rpartition(".")
        setattr(model.get_submodule(module), own, weight)


def start_states(model: nn.Module, optimizer: torch.optim.Optimizer, zeros: Make) -> None:
    """Gradients and AdamW's state as `zeros`, before the first step: all steps are then one graph."""
    for name, parameter in model.named_parameters():
        shape = torch.empty(parameter.shape, device="meta")
        parameter.grad = zeros(name, shape)
        moments = {kind: zeros(name, shape) for kind in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def _annotated(grad: Tensor, spread: Spread) -> Tensor:
    grad = grad.clone()  # the annotation is the clone's, not that of whatever else reads the gradient
    device.annotate(grad, spread)
    return grad


def spread_output(module: nn.Module, spread: Spread) -> None:
    """Cut what a module gives as told, in the forward pass and in the backward pass."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # a block gives the residual stream and what is to be added to it
            return tuple(device.annotated(each, spread) for each in output)
        return device.annotated(output, spread)

    module.register_forward_hook(hook)


def give_bf16(module: nn.Module) -> None:
    """What a module gives becomes bf16."""
    module.register_forward_hook(lambda _module, _args, output: output.to(torch.bfloat16))


def ranked_sections(x: Tensor, sizes: tuple[int, ...], *, tp: int) -> list[Tensor]:
    """[..., sum(sizes)], rank by rank -> [..., size] of each section, in the order of heads or columns; nothing moves."""
    by_rank = x.unflatten(-1, (tp, -1)).split([size // tp for size in sizes], dim=-1)
    return [each.flatten(-2) for each in by_rank]
