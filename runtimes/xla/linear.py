"""Linear layers whose weights each device has a part of, between hidden states and what tp cuts by columns.

Left to itself the compiler gathers a weight long before the backward pass needs it again, and keeps that of every layer. Where devices of
tp have a run of the tokens each, it also finds one axis cutting tokens on one side of a product and columns on the other, and gathers
the larger of them. Here it is told what to gather, and to keep the part alone for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import device
from .device import Spread


def spread_linear(module: nn.Module, *, inputs: Spread, outputs: Spread, whole: Spread | None = None) -> None:
    """Cut what a linear layer takes and gives as told. Of the two, one that tp cuts along tokens is gathered (`whole`) for products."""
    assert isinstance(module, nn.Linear)

    def forward(x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("xla") if torch.is_autocast_enabled("xla") else x.dtype
        weight, bias = (None if each is None else each.to(dtype) for each in (module.weight, module.bias))
        if whole is None:
            spreads = (inputs, inputs, outputs, outputs)
        else:
            spreads = (inputs, whole, outputs, outputs) if inputs[1] != whole[1] else (inputs, inputs, outputs, whole)
        return _Linear.apply(x.to(dtype), weight, bias, spreads)  # type: ignore[return-value]

    module.forward = forward  # type: ignore[method-assign]  # pyright: ignore[reportAttributeAccessIssue]


class _Linear(torch.autograd.Function):
    """Spreads: of the input as it is kept and as it is used, of the output as it is given and as its gradient is used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spreads: tuple[Spread, ...]) -> Tensor:
        ctx.spreads, ctx.has_bias = spreads, bias is not None
        x = device.annotated(
            x, spreads[0]
        )  # in the format that travels: else it would be gathered in the one that came
        ctx.save_for_backward(x, weight)
        with torch.autocast("xla", enabled=False):
            y = F.linear(device.annotated(x, spreads[1]), weight, bias)
        return device.annotated(y, spreads[2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        kept, used, given, gradient = ctx.spreads
        x, weight = ctx.saved_tensors
        weight, grad = weight.clone(), device.annotated(grads[0], given)
        x = x.clone() if kept != used else x  # one that is not gathered may be computed again where that is cheap
        device.barrier([weight, grad, *([x] if kept != used else [])])  # else what the forward pass gathered is kept
        x, grad = device.annotated(device.annotated(x, kept), used), device.annotated(grad, gradient)
        by_bias = grad.sum((0, 1)) if ctx.has_bias else None
        by_weight = torch.einsum("btf,btd->fd", grad, x)
        return device.annotated(grad @ weight, kept), by_weight, by_bias, None
