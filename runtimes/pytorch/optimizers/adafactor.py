"""Adafactor (Shazeer 2018, algorithms 4 and 5): of the second moment of a matrix its row and column means are kept.

    beta  <- 1 - step^-0.8
    rows  <- beta * rows + (1 - beta) * mean of gradient^2 over columns;    columns likewise
    V     <- rows columns' / mean(rows)                                     a vector has V itself
    U     <- gradient / sqrt(V)
    rate  <- max(1e-3, rms(weight)) * min(lr, 1 / sqrt(step))
    weight <- weight - rate * U / max(1, rms(U))

`lr` is thus relative to the size of a weight. ZeRO cuts rows, tp rows or columns: means over them and norms are sums over ranks, two
all-reduces a step along each axis for all parameters together. What is kept of rows or columns is on every rank that has a part
of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..parallel.cuts import Columns, Cuts, Whole
from .local import Shards, local, shards_of, trained

LEAST_SCALE = 1e-3


class Adafactor(torch.optim.Optimizer):
    """`cuts`: what tp cuts of the parameters, if it has several ranks; groups then have names, `[(name, parameter), …]`."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, cuts: Cuts | None = None) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.cuts = cuts

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is kept of a parameter, as zeros."""
        if parameter.dim() < 2:
            return {"variance": torch.zeros_like(parameter)}
        rows = torch.zeros_like(parameter[:, :1])
        return {"row_var": rows, "col_var": local(parameter).new_zeros(1, parameter.shape[1])}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        sharded: dict[Any, list[_Work]] = {}
        for group in self.param_groups:
            for name, parameter in trained(group):
                state = self.state[parameter]
                if not state:
                    state.update(step=torch.zeros(()), **self.fresh_state(parameter))
                state["step"] += 1.0
                work = _Work(parameter, state, group, _part(name, parameter, self.cuts))
                sharded.setdefault(work.shards and work.shards.group, []).append(work)
        for shards, together in sharded.items():
            _step(together, shards=shards, tp=None if self.cuts is None else self.cuts.tp.group)


@dataclass(frozen=True)
class _Part:
    """What tp leaves of a parameter."""

    whole: tuple[int, ...]
    """Shape of the whole parameter."""
    has_rows: bool = False
    """Some of the rows."""
    has_columns: bool = False
    share: Tensor | None = None
    """What each row counts in a sum over tp: less where several ranks have it, nothing where it is padding. None: all count whole."""

    def counted(self, tensor: Tensor) -> Tensor:
        return tensor if self.share is None else tensor * self.share


def _part(name: str, parameter: nn.Parameter, cuts: Cuts | None) -> _Part:
    if cuts is None or isinstance(cut := cuts.of(name), Whole):
        return _Part(tuple(parameter.shape))
    whole = cuts.parts_of_matrix(name, parameter.shape, rank=cuts.tp.rank)[0].whole
    if isinstance(cut, Columns):
        return _Part(whole, has_columns=True)
    tensor, pieces = local(parameter), list(cuts.pieces(name, parameter))
    share = tensor.new_zeros(len(tensor), *(1 for _ in whole[1:]))
    first = 0
    for each in pieces:
        share[first : first + len(each.tensor)] = 1.0 / each.part.copies
        first += len(each.tensor)
    return _Part(whole, has_rows=True, share=share)


class _Work:
    """One parameter's step: what a rank has of it."""

    mean_row: Tensor
    rows: Tensor
    """Means of the gradient's squares over columns, those of all ranks."""
    squares: Tensor
    """Of the update, summed."""

    def __init__(self, parameter: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any], part: _Part) -> None:
        assert parameter.grad is not None
        self.shards: Shards | None = shards_of(parameter)
        self.weight, self.gradient, self.part = local(parameter), local(parameter.grad), part
        self.state = {key: local(value) for key, value in state.items()}
        self.lr, self.weight_decay = group["lr"], group["weight_decay"]
        self.step: Tensor = state["step"]
        self.numel = math.prod(part.whole)
        self.is_matrix = "variance" not in self.state

    def sums_over_tp(self) -> list[Tensor]:
        """What tp has to add up: of squares of what it cuts."""
        self.scale = self.part.counted(self.weight.square()).sum().view(1)
        if self.is_matrix:
            squares = self.gradient.square()
            self.columns = self.part.counted(squares).sum(0)
            self.rows = squares.sum(1, keepdim=True) / self.part.whole[1]
            if self.part.has_columns:
                return [self.scale, self.rows]
            self._keep_rows()
        sums = [self.scale, self.columns, self.mean_row] if self.is_matrix else [self.scale]
        return sums if self.part.has_rows else []

    def sums_over_shards(self) -> list[Tensor]:
        """What ranks of ZeRO have to add up, each of which has other rows."""
        if self.part.has_columns:
            self._keep_rows()
        return [self.scale, self.columns, self.mean_row] if self.is_matrix else [self.scale]

    def _keep_rows(self) -> None:
        self.state["row_var"].lerp_(self.rows, self._share())
        self.mean_row = self.part.counted(self.state["row_var"]).sum().view(1)

    def take_sums(self) -> None:
        self.scale = (self.scale / self.numel).sqrt()
        if self.is_matrix:
            self.state["col_var"].lerp_(self.columns.unsqueeze(0) / self.part.whole[0], self._share())
            self.mean_row = self.mean_row / self.part.whole[0]
        else:
            self.state["variance"].lerp_(self.gradient.square(), self._share())
        self.squares = self.part.counted(self.update().square()).sum().view(1)

    def update(self) -> Tensor:
        """U of what this rank has; worked out twice, so that only one parameter's is there at a time."""
        least = torch.finfo(self.weight.dtype).eps
        if self.is_matrix:
            estimate = (self.state["row_var"] @ self.state["col_var"]).div_(self.mean_row.clamp(min=least))
        else:
            estimate = self.state["variance"].clone()
        return estimate.clamp_(min=least * least).rsqrt_().mul_(self.gradient)

    def apply(self) -> None:
        rate = self.scale.clamp(min=LEAST_SCALE) * self.step.rsqrt().clamp(max=self.lr).to(self.weight)
        clipped = (self.squares / self.numel).sqrt().clamp(min=1.0)
        self.weight.mul_(1.0 - self.lr * self.weight_decay).sub_(self.update() * (rate / clipped))

    def _share(self) -> Tensor:
        return self.step.pow(-0.8).to(self.weight)


def _step(works: list[_Work], *, shards: dist.ProcessGroup | None, tp: dist.ProcessGroup | None) -> None:
    """The step of parameters that the same ranks share."""
    _add_up([each for work in works for each in work.sums_over_tp()], tp)
    _add_up([each for work in works for each in work.sums_over_shards()], shards)
    for work in works:
        work.take_sums()
    _add_up([work.squares for work in works if work.part.has_rows or work.part.has_columns], tp)
    _add_up([work.squares for work in works], shards)
    for work in works:
        work.apply()


def _add_up(tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Over the ranks of a group, in one all-reduce; in place."""
    if group is None or not tensors:
        return
    flat = torch.cat([each.flatten() for each in tensors])
    dist.all_reduce(flat, group=group)
    for each, summed in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        each.copy_(summed.view_as(each))
