"""Sophia-G (Liu 2023, algorithm 3): momentum over curvature, element by element, and no element moves further than the rate.

    momentum  <- beta1 * momentum + (1 - beta1) * gradient
    weight    <- weight - lr * clip(momentum / (rho * curvature), 1) - lr * decay * weight
    curvature <- beta2 * curvature + (1 - beta2) * N * estimate^2           every tenth step

The estimate (Gauss-Newton-Bartlett) is the gradient of the mean loss of N tokens whose labels are drawn from the model's own
prediction; drawn_labels.py draws them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .local import local, trained

LEAST = 1e-15
"""Added to the curvature, which starts at zero: until the first estimate steps are those of a sign."""


class Sophia(torch.optim.Optimizer):
    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], rho: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "rho": rho, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for _, parameter in trained(group):
                assert parameter.grad is not None
                state = self.state[parameter]
                if not state:
                    moments = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "curvature")}
                    state.update(step=torch.zeros(()), **moments)
                state["step"] += 1.0
                weight, gradient = local(parameter), local(parameter.grad)
                momentum = local(state["exp_avg"]).lerp_(gradient, 1.0 - group["betas"][0])
                scale = local(state["curvature"]).mul(group["rho"]).add_(LEAST)
                update = (momentum / scale).clamp_(min=-1.0, max=1.0)
                weight.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])

    @torch.no_grad()
    def update_curvature(self, *, num_tokens: int) -> None:
        """Take in the gradients, which are those of the mean loss of `num_tokens` tokens with drawn labels."""
        for group in self.param_groups:
            for _, parameter in trained(group):
                assert parameter.grad is not None
                estimate = local(parameter.grad).square().mul_(num_tokens)
                local(self.state[parameter]["curvature"]).lerp_(estimate, 1.0 - group["betas"][1])


def draws(seed: int, *, step: int, first: int, sequences: int, tokens: int) -> Tensor:
    """Numbers between zero and one, [sequences, tokens], for the sequences of a micro-batch from `first` on.

    They depend on nothing else, so that layouts draw alike, and so does a run that was resumed.
    """
    rows = []
    for row in range(first, first + sequences):
        digest = hashlib.sha256(f"{seed}/curvature/{step}/{row}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        rows.append(torch.rand(tokens, generator=generator))
    return torch.stack(rows)
