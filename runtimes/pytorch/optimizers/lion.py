"""Lion (Chen 2023, algorithm 2): the sign of an interpolation between momentum and gradient.

update   <- sign(beta1 * momentum + (1 - beta1) * gradient)
momentum <- beta2 * momentum + (1 - beta2) * gradient
weight   <- weight - lr * (update + decay * weight)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .local import local, trained


class Lion(torch.optim.Optimizer):
    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for _, parameter in trained(group):
                assert parameter.grad is not None
                state = self.state[parameter]
                if not state:
                    state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(parameter))
                state["step"] += 1.0
                weight, gradient, momentum = local(parameter), local(parameter.grad), local(state["exp_avg"])
                update = momentum.lerp(gradient, 1.0 - beta1).sign_()
                weight.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
                momentum.lerp_(gradient, 1.0 - beta2)
