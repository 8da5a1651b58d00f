"""Tokens on their way to experts and back, in shapes that do not depend on where they go.

Each of S devices has n tokens and sends every expert at most M of them. Which token takes which place is a table of zeros and ones,
and going there and back are products with it: the compiler cuts these well, and makes the way between devices one all-to-all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import device

Axes = str | tuple[str, ...] | None


class Places:
    """Where the visits of tokens [N] to experts [N, X] go: `tokens` are the axes that cut N, `experts` those of ep that cut E."""

    def __init__(
        self, visits: Tensor, weights: Tensor, *, num_experts: int, capacity_factor: float, tokens: Axes, experts: Axes
    ) -> None:
        parts = device.extent(tokens)
        visits, weights = (each.unflatten(0, (parts, -1)) for each in (visits, weights))  # [S, n, X]
        rows, per_token = visits.shape[1:]
        self.spread = (tokens, None, None, None)
        outer = tuple(name for name in _names(tokens) if name not in _names(experts))
        self.spread_by_expert = (outer or None, experts, None, None)
        self.room = math.ceil(capacity_factor * rows * per_token / num_experts)  # M
        ids = torch.arange(num_experts, device=visits.device)
        is_visited = (visits[..., None] == ids).to(weights.dtype)  # [S, n, X, E]
        self.weights = (weights[..., None] * is_visited).sum(2)  # [S, n, E]
        is_visited = is_visited.detach().sum(2)
        place = is_visited.to(torch.int32).cumsum(1) - 1  # among the visits of the same expert
        slots = (place[..., None] == torch.arange(self.room, device=visits.device)) & (is_visited[..., None] > 0)
        self.slots = device.annotated(
            slots.to(weights.dtype), self.spread
        )  # [S, n, E, M]: 1 where a token has its place

    def sent(self, x: Tensor) -> Tensor:
        """x [N, D] -> [S, E, M, D], on the devices of the experts."""
        x = x.unflatten(0, (len(self.slots), -1))
        rows = device.annotated(torch.einsum("snem,snd->semd", self.slots.to(x.dtype), x), self.spread)
        return device.annotated(rows, self.spread_by_expert)

    def taken(self, y: Tensor) -> Tensor:
        """What experts made of them [S, E, M, D] -> the weighted sum for each token [N, D]."""
        y = device.annotated(device.annotated(y, self.spread_by_expert), self.spread)
        weighted = self.slots * self.weights[..., None]
        return torch.einsum("snem,semd->snd", weighted.to(y.dtype), y).flatten(0, 1)


def _names(axes: Axes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()
