"""Muon (Jordan 2024): the momentum of a matrix, with all its singular values brought near one. AdamW for all other parameters.

    momentum <- mu * momentum + (1 - mu) * gradient
    U        <- orthogonalised((1 - mu) * gradient + mu * momentum)         five Newton-Schulz iterations
    weight   <- weight - lr * (0.2 * sqrt(max(rows, columns)) * U + decay * weight)

The factor gives updates the size of AdamW's, so that one rate and one decay serve both (Liu 2025). Matrices that the model
stores one below the other (queries, keys and values; gate and up) are orthogonalised each by itself, and so are experts.

An orthogonalised matrix needs all of its rows and columns, of which ZeRO and tp leave a rank some. Matrices are dealt out
(deal.py), the largest first. Iterating where they lie would save that, and sum x x' over tp in each of the five rounds: more bytes
than there and back, and each rank would have to work on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..parallel.cuts import Cuts
from .deal import Held, round_size, worked_on
from .local import Shards, local, shards_of, trained

ITERATION = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan's quintic: steep at zero, and between 0.7 and 1.2 after five rounds."""


class Muon(torch.optim.Optimizer):
    """Groups with `is_muon` and names, `[(name, parameter), …]`, hold matrices or stacks of them; others go by AdamW.

    `qkv_rows`: rows of queries, keys and values where one parameter has all three. `dtype`: of the iterations; None: of the weight.
    `cuts`: what tp cuts of the matrices, if it has several ranks.
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
        cuts: Cuts | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0, "is_muon": False}
        super().__init__(groups, defaults)
        self.qkv_rows, self.dtype, self.cuts = qkv_rows, dtype, cuts
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
            cut = shards_of(parameter)
            shards = cut if cut is not None and cut.dim == parameter.dim() - 2 else None
            weight = local(parameter)
            shape = tuple(weight.shape if shards is None else parameter.shape)
            work = _Matrices(name, weight, shape, shards, momentum, gradient)
            sharded.setdefault(shards and shards.group, []).append(work)
        for together in sharded.values():
            # The same on all ranks: what is of equal size keeps its order.
            together.sort(key=lambda work: (-math.prod(work.shape), work.shape[-2]))
            for start in range(0, len(together), size := round_size(together[0].shards, self.cuts)):
                self._step_of_round(together[start : start + size], group)

    def _step_of_round(self, works: Sequence[_Matrices], group: dict[str, Any]) -> None:
        ahead = [Held(work.name, work.shape, work.ahead(group["momentum"], self.dtype)) for work in works]
        updates = worked_on(ahead, self._update, shards=works[0].shards, cuts=self.cuts)
        for work, update in zip(works, updates, strict=True):
            work.apply(update, group)

    def _update(self, name: str, whole: Tensor) -> Tensor:
        sections = _sections(name, whole.shape[-2], self.qkv_rows)
        return torch.cat([_scale(part) * orthogonalised(part) for part in whole.split(sections, dim=-2)], dim=-2)


@dataclass(frozen=True)
class _Matrices:
    """A parameter [R, C] or a stack [E, R, C], of which this rank has rows or matrices, or all."""

    name: str
    weight: Tensor
    shape: tuple[int, ...]
    """Of what ranks that share its rows have together."""
    shards: Shards | None
    """The ranks that have other rows; a run of whole matrices needs nobody else of ZeRO."""
    momentum: Tensor
    gradient: Tensor

    def ahead(self, mu: float, dtype: torch.dtype | None) -> Tensor:
        """The momentum one gradient further (Nesterov), which is what is orthogonalised."""
        return self.gradient.lerp(self.momentum, mu).to(dtype or self.weight.dtype)

    def apply(self, update: Tensor, group: dict[str, Any]) -> None:
        self.weight.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update.to(self.weight), alpha=group["lr"])


def _sections(name: str, rows: int, qkv_rows: tuple[int, ...] | None) -> list[int]:
    """Rows of the matrices that are stored one below the other."""
    modules = name.split(".")
    if "qkv" in modules and qkv_rows is not None:
        return list(qkv_rows)
    return [rows // 2, rows // 2] if "gate_up" in modules else [rows]


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
