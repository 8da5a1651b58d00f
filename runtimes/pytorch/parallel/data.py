"""Data parallelism: which sequences a rank sees, and when parameters and gradients travel (ZeRO, Rajbhandari 2020).

FSDP2 shards weights, gradients and optimizer state along the first dim. What the levels of ZeRO differ in is when they
travel, between the micro-batches of a step:

    level   weights are gathered           gradients are summed
    3       before each use                 after each micro-batch
    2       once a step                     after each micro-batch
    1       once a step                     once a step
    0       never: every rank holds all     once a step
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.distributed.fsdp import FSDPModule

Zero = Literal[0, 1, 2, 3]


def sum_gradients(model: nn.Module) -> None:
    """Have gradients summed over ranks, where FSDP would average: the loss is a share of the whole step's already."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def set_travel(model: nn.Module, *, zero: Zero, is_last: bool) -> None:
    """Say, before a micro-batch, what travels after it; `is_last` of the step."""
    assert isinstance(model, FSDPModule)
    if zero <= 2:
        model.set_reshard_after_backward(is_last)
    if zero <= 1:
        model.set_requires_gradient_sync(is_last)
    else:
        model.set_requires_all_reduce(is_last)  # between replicas of the shards


def reshard(model: nn.Module) -> None:
    """Free the weights that a forward pass alone has gathered, which else a backward pass does."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
