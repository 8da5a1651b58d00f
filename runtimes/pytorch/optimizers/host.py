"""AdamW (Loshchilov 2019) with its moments in the memory of the host, whose cores compute the update (Ren 2021, ZeRO-Offload).

    device                      host
    weight, gradient   ---->    copies of both, the parameter's moments: AdamW as torch computes it on CPUs
    weight             <----    copy of the weight

One parameter after the other; while the host works on one, the next comes down. So the host has copies of two at a time, and the
device nothing but weights and gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from .local import local, trained

MOMENTS = ("exp_avg", "exp_avg_sq")


class HostAdamW(torch.optim.Optimizer):
    is_on_host = True

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is kept of a parameter, as zeros in the host's memory."""
        return {name: _zeros_on_host(parameter) for name in MOMENTS}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        before: _Visit | None = None
        for visit in self._visits():
            if before is not None:
                self._update(before)
            before = visit
        if before is not None:
            self._update(before)

    def _visits(self) -> Iterator[_Visit]:
        for group in self.param_groups:
            for _, parameter in trained(group):
                yield _Visit.of(parameter, group)

    def _update(self, visit: _Visit) -> None:
        state, group = self.state[visit.parameter], visit.group
        if not state:
            state.update(step=torch.zeros(()), **self.fresh_state(visit.parameter))
        state["step"] = state["step"].cpu()  # a checkpoint that was loaded put it beside the parameter
        visit.wait()
        adamw(
            [visit.weight],
            [visit.gradient],
            *([local(state[name])] for name in MOMENTS),
            max_exp_avg_sqs=[],
            state_steps=[state["step"]],
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        local(visit.parameter).copy_(visit.weight, non_blocking=True)


@dataclass(frozen=True)
class _Visit:
    """A parameter whose weight and gradient are on the way to the host."""

    parameter: nn.Parameter
    group: dict[str, Any]
    weight: Tensor
    gradient: Tensor
    arrived: torch.cuda.Event | None
    """None: they are there."""

    @classmethod
    def of(cls, parameter: nn.Parameter, group: dict[str, Any]) -> _Visit:
        assert parameter.grad is not None
        weight, gradient = _copy_on_host(local(parameter)), _copy_on_host(local(parameter.grad))
        arrived = torch.cuda.Event() if parameter.is_cuda else None
        if arrived is not None:
            arrived.record()
        return cls(parameter, group, weight, gradient, arrived)

    def wait(self) -> None:
        if self.arrived is not None:
            self.arrived.synchronize()


def _copy_on_host(tensor: Tensor) -> Tensor:
    """On its way: pinned memory, which the device writes by itself."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def _zeros_on_host(parameter: Tensor) -> Tensor:
    """Cut as the parameter is, so that checkpoints know which part of the whole it is."""
    zeros = torch.zeros_like(local(parameter), device="cpu")
    return DTensor(zeros, parameter._spec, requires_grad=False) if isinstance(parameter, DTensor) else zeros
