"""Muon (Jordan 2024): the momentum of a matrix, with all its singular values brought near one. AdamW for all other parameters.

    momentum <- mu * momentum + (1 - mu) * gradient
    U        <- orthogonalised((1 - mu) * gradient + mu * momentum)         five Newton-Schulz iterations
    weight   <- weight - lr * (0.2 * sqrt(max(rows, columns)) * U + decay * weight)

The factor gives updates the size of AdamW's, so that one rate and one decay serve both (Liu 2025). Matrices that the model
stores one below the other (queries, keys and values; gate and up) are orthogonalised each by itself, and so are experts.

An orthogonalised matrix needs all of its rows, of which ZeRO leaves a rank a run. Matrices are dealt out, the largest first: in a
round every rank gets the rows of one of them, works on it, and gives each its rows back. Nothing is worked out twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .local import Shards, local, shards_of, trained

ITERATION = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan's quintic: steep at zero, and between 0.7 and 1.2 after five rounds."""


class Muon(torch.optim.Optimizer):
    """Groups with `is_muon` and names, `[(name, parameter), …]`, hold matrices or stacks of them; others go by AdamW.

    `qkv_rows`: rows of queries, keys and values where one parameter has all three. `dtype`: of the iterations; None: of the weight.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        qkv_rows: tuple[int, ...] | None,
        dtype: torch.dtype | None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0, "is_muon": False}
        super().__init__(groups, defaults)
        self.qkv_rows, self.dtype = qkv_rows, dtype
        self._matrices = {parameter for group in self.param_groups if group["is_muon"] for parameter in group["params"]}

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is kept of a parameter, as zeros."""
        kinds = ("momentum",) if parameter in self._matrices else ("exp_avg", "exp_avg_sq")
        return {kind: torch.zeros_like(parameter) for kind in kinds}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            found = list(trained(group))
            for _, parameter in found:
                state = self.state[parameter]
                if not state:
                    state.update(step=torch.zeros(()), **self.fresh_state(parameter))
                state["step"] += 1.0
            if group["is_muon"]:
                self._step_of_matrices(found, group)
            else:
                for _, parameter in found:
                    _adamw(parameter, self.state[parameter], group)

    def _step_of_matrices(self, found: list[tuple[str, nn.Parameter]], group: dict[str, Any]) -> None:
        sharded: dict[Any, list[_Matrices]] = {}
        for name, parameter in found:
            assert parameter.grad is not None
            gradient, momentum = local(parameter.grad), local(self.state[parameter]["momentum"])
            momentum.lerp_(gradient, 1.0 - group["momentum"])
            rows = _sections(name, parameter, self.qkv_rows)
            work = _Matrices(local(parameter), tuple(parameter.shape), rows, shards_of(parameter), momentum, gradient)
            sharded.setdefault(work.shards and work.shards.group, []).append(work)
        for together in sharded.values():
            together.sort(
                key=lambda work: -math.prod(work.shape)
            )  # the same on all ranks: sorting keeps the order of equals
            for start in range(0, len(together), size := _round(together)):
                _step_of_round(together[start : start + size], group, dtype=self.dtype)


@dataclass(frozen=True)
class _Matrices:
    """A parameter [R, C] or a stack [E, R, C], of which this rank has rows or matrices, or all."""

    weight: Tensor
    shape: tuple[int, ...]
    sections: tuple[int, ...]
    """Rows of those that lie one below the other."""
    cut: Shards | None
    momentum: Tensor
    gradient: Tensor

    @property
    def shards(self) -> Shards | None:
        """The ranks that have other rows; a run of whole matrices needs nobody else."""
        return self.cut if self.cut is not None and self.cut.dim == len(self.shape) - 2 else None

    def ahead(self, mu: float, dtype: torch.dtype | None) -> Tensor:
        """The momentum one gradient further (Nesterov), which is what is orthogonalised."""
        return self.gradient.lerp(self.momentum, mu).to(dtype or self.weight.dtype)

    def apply(self, update: Tensor, group: dict[str, Any]) -> None:
        self.weight.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update.to(self.weight), alpha=group["lr"])


def _round(works: Sequence[_Matrices]) -> int:
    """Matrices that are worked on at a time: one a rank."""
    shards = works[0].shards
    return 1 if shards is None else shards.size


def _step_of_round(works: Sequence[_Matrices], group: dict[str, Any], *, dtype: torch.dtype | None) -> None:
    ahead = [work.ahead(group["momentum"], dtype) for work in works]
    shards = works[0].shards
    if shards is None:
        updates = [_update(each, work.sections) for work, each in zip(works, ahead, strict=True)]
    else:
        updates = _dealt_out(works, ahead, shards)
    for work, update in zip(works, updates, strict=True):
        work.apply(update, group)


def _dealt_out(works: Sequence[_Matrices], ahead: Sequence[Tensor], shards: Shards) -> list[Tensor]:
    """This rank's rows of all updates: it gives its rows of the n-th matrix to rank n, and n gives rows of the update back."""
    lengths = [[_length(work.shape, shards, rank) for rank in range(shards.size)] for work in works]
    chunks = ahead[0].new_zeros(
        shards.size, max(max(each) for each in lengths)
    )  # equal ones: the first rank has most rows
    for chunk, part in zip(chunks, ahead, strict=False):
        chunk[: part.numel()] = _rows_first(part).flatten()
    received = torch.empty_like(chunks)
    dist.all_to_all_single(received, chunks, group=shards.group)
    chunks.zero_()
    if shards.rank < len(works):
        mine, held = works[shards.rank], lengths[shards.rank]
        rows = torch.cat([chunk[:length] for chunk, length in zip(received, held, strict=True)])
        update = _update(_rows_first(rows.view(_swapped(mine.shape))), mine.sections)
        for chunk, part in zip(chunks, _rows_first(update).flatten().split(held), strict=True):
            chunk[: part.numel()] = part
    dist.all_to_all_single(received, chunks, group=shards.group)
    own = zip(received, ahead, strict=False)
    return [_rows_first(chunk[: part.numel()].view(_swapped(part.shape))) for chunk, part in own]


def _length(shape: Sequence[int], shards: Shards, rank: int) -> int:
    """Elements that a rank has of a parameter of this whole shape."""
    return shards.run(shape[-2], rank) * (math.prod(shape) // shape[-2])


def _rows_first(matrices: Tensor) -> Tensor:
    """[E, R, C] -> [R, E, C], and back: the rows of all experts that a rank has lie together. A matrix stays as it is."""
    return matrices.transpose(0, -2)


def _swapped(shape: Sequence[int]) -> list[int]:
    return [shape[-2], *shape[:-2], shape[-1]]


def _sections(name: str, parameter: Tensor, qkv_rows: tuple[int, ...] | None) -> tuple[int, ...]:
    modules, rows = name.split("."), parameter.shape[-2]
    if "qkv" in modules and qkv_rows is not None:
        return qkv_rows
    return (rows // 2, rows // 2) if "gate_up" in modules else (rows,)


def _update(whole: Tensor, sections: Sequence[int]) -> Tensor:
    return torch.cat([_scale(part) * orthogonalised(part) for part in whole.split(list(sections), dim=-2)], dim=-2)


def _scale(matrix: Tensor) -> float:
    return 0.2 * math.sqrt(max(matrix.shape[-2:]))


def orthogonalised(matrix: Tensor) -> Tensor:
    """U V' of the singular value decomposition U S V', nearly: x <- a x + b (x x') x + c (x x')^2 x, five times."""
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if is_tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = ITERATION
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


def _adamw(parameter: nn.Parameter, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    beta1, beta2 = group["betas"]
    weight, gradient = local(parameter), local(parameter.grad)
    mean, square = local(state["exp_avg"]), local(state["exp_avg_sq"])
    mean.lerp_(gradient, 1.0 - beta1)
    square.lerp_(gradient.square(), 1.0 - beta2)
    unbiased = (square / (1.0 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
    weight.sub_((mean / unbiased) * (group["lr"] / (1.0 - beta1 ** state["step"])).to(weight))
