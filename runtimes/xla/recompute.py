"""Activations that are computed again in the backward pass, behind a barrier: XLA would else merge both computations into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import device


def checkpoint(function: Callable[..., Tensor], *args: Tensor, use_reentrant: bool = False) -> Tensor:
    """As torch.utils.checkpoint: keep `args` alone, and compute the rest again. Nothing in it may draw random numbers."""
    del use_reentrant  # there is one way
    return _Checkpoint.apply(function, *args)  # type: ignore[return-value]


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *args: Tensor) -> Tensor:
        ctx.function = function
        ctx.autocast = (torch.is_autocast_enabled("xla"), torch.get_autocast_dtype("xla"))
        ctx.save_for_backward(*args)
        with torch.no_grad():
            return function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        enabled, dtype = ctx.autocast
        (grad,) = grads
        again = [each.detach().clone() for each in ctx.saved_tensors]
        device.barrier([*again, grad])  # the gradient too: what is computed again waits for it
        for own, saved in zip(again, ctx.saved_tensors, strict=True):
            own.requires_grad_(saved.requires_grad)
        with torch.enable_grad(), torch.autocast("xla", dtype=dtype, enabled=enabled):
            result = ctx.function(*again)
        torch.autograd.backward(result, grad)
        return (None, *(each.grad for each in again))
