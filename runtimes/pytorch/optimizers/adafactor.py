"""Adafactor (Shazeer 2018, algorithms 4 and 5): of the second moment of a matrix its row and column means are kept.

    beta  <- 1 - step^-0.8
    rows  <- beta * rows + (1 - beta) * mean of gradient^2 over columns;    columns likewise
    V     <- rows columns' / mean(rows)                                     a vector has V itself
    U     <- gradient / sqrt(V)
    rate  <- max(1e-3, rms(weight)) * min(lr, 1 / sqrt(step))
    weight <- weight - rate * U / max(1, rms(U))

`lr` is thus relative to the size of a weight. ZeRO cuts rows: means over them and norms are sums over ranks, two all-reduces
a step for all parameters together; what is kept of the columns is on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .local import Shards, local, shards_of, trained

LEAST_SCALE = 1e-3


class Adafactor(torch.optim.Optimizer):
    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

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
            for _, parameter in trained(group):
                state = self.state[parameter]
                if not state:
                    state.update(step=torch.zeros(()), **self.fresh_state(parameter))
                state["step"] += 1.0
                work = _Work(parameter, state, group)
                sharded.setdefault(work.shards and work.shards.group, []).append(work)
        for together in sharded.values():
            _step(together)


class _Work:
    """One parameter's step: what a rank has of it."""

    scale: Tensor
    """Root of the weight's mean square."""
    mean_row: Tensor

    def __init__(self, parameter: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        self.shards: Shards | None = shards_of(parameter)
        self.weight, self.gradient = local(parameter), local(parameter.grad)
        self.state = {key: local(value) for key, value in state.items()}
        self.num_rows, self.numel = parameter.shape[0], parameter.numel()
        self.lr, self.weight_decay = group["lr"], group["weight_decay"]
        self.step: Tensor = state["step"]

    def local_sums(self) -> Iterator[Tensor]:
        """What has to be summed over ranks: of the weight's squares, and of a matrix' columns and rows."""
        yield self.weight.square().sum().view(1)
        if "variance" in self.state:
            return
        yield self.gradient.square().sum(0)
        share = self._share()
        self.state["row_var"].lerp_(self.gradient.square().mean(1, keepdim=True), share)
        yield self.state["row_var"].sum().view(1)

    def take_sums(self, sums: Sequence[Tensor]) -> None:
        self.scale = (sums[0] / self.numel).sqrt()
        if "variance" in self.state:
            self.state["variance"].lerp_(self.gradient.square(), self._share())
            return
        self.state["col_var"].lerp_(sums[1].unsqueeze(0) / self.num_rows, self._share())
        self.mean_row = sums[2] / self.num_rows

    def update(self) -> Tensor:
        """U of this rank's rows; worked out twice, so that only one parameter's is there at a time."""
        least = torch.finfo(self.weight.dtype).eps
        if "variance" in self.state:
            estimate = self.state["variance"].clone()
        else:
            estimate = (self.state["row_var"] @ self.state["col_var"]).div_(self.mean_row.clamp(min=least))
        return estimate.clamp_(min=least * least).rsqrt_().mul_(self.gradient)

    def apply(self, squares: Tensor) -> None:
        rate = self.scale.clamp(min=LEAST_SCALE) * self.step.rsqrt().clamp(max=self.lr).to(self.weight)
        clipped = (squares / self.numel).sqrt().clamp(min=1.0)
        self.weight.mul_(1.0 - self.lr * self.weight_decay).sub_(self.update() * (rate / clipped))

    def _share(self) -> Tensor:
        return self.step.pow(-0.8).to(self.weight)


def _step(works: list[_Work]) -> None:
    """The step of parameters that the same ranks share."""
    sums = [list(work.local_sums()) for work in works]
    flat = [each for of_one in sums for each in of_one]
    summed = iter(_summed(flat, works[0].shards))
    for work, of_one in zip(works, sums, strict=True):
        work.take_sums([next(summed) for _ in of_one])
    squares = _summed([work.update().square().sum().view(1) for work in works], works[0].shards)
    for work, each in zip(works, squares, strict=True):
        work.apply(each)


def _summed(tensors: list[Tensor], shards: Shards | None) -> Sequence[Tensor]:
    if shards is None:
        return tensors
    flat = torch.cat(tensors)
    dist.all_reduce(flat, group=shards.group)
    return flat.split([each.numel() for each in tensors])
