"""Linear layers whose products are in fp8: e4m3 for what they take, e5m2 for gradients (Micikevicius 2022).

    y   = x w^T      rows of x and of w           D is summed
    d_x = g w        rows of g, columns of w      F is summed
    d_w = g^T x      columns of g and of x        tokens are summed

Numbers that are summed with one another share a scale: a row of the left factor and a column of the right one have theirs,
found from the row itself. So what a token gets does not depend on its company, layouts that cut batches or sequences round
alike, and no rank asks another for a maximum. Scales are powers of two: multiplying by one rounds nothing.

Weights, activations and what is kept for the backward pass stay as they are (bf16); copies in fp8 last for a product. GPUs with
fp8 multiply them as they are, elsewhere the eager twin does: the same codes and scales, and a product in fp32. Sums are fp32 in
both: `use_fast_accum`, which keeps fewer digits of them on Hopper, is left off.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..kernels.native import CHOICE
from .products import Products

LEAST = 2.0**-100
"""Of a row's largest number: what is smaller is scaled as if it were this."""
LEAST_CAPABILITY = (8, 9)
"""Of NVIDIA's GPUs: Ada and Hopper."""


class Fp8Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear_fp8(input, self.weight, self.bias)

    @property
    def products(self) -> Products:
        return PRODUCTS


def linear_fp8(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., D], weight [F, D] -> [..., F]."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    y = _Linear.apply(x, weight, bias)
    assert isinstance(y, Tensor)
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return output(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        d_x = to_input(grads[0], weight) if ctx.needs_input_grad[0] else None
        d_weight = to_weight(grads[0], x).to(weight.dtype) if ctx.needs_input_grad[1] else None
        d_bias = None if ctx.bias_dtype is None else grads[0].flatten(0, -2).sum(0).to(ctx.bias_dtype)
        return d_x, d_weight, d_bias


def output(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    values, _ = formats(x.device)
    y = product(x.flatten(0, -2), weight, values, values).unflatten(0, x.shape[:-1])
    return y if bias is None else y.add_(bias)


def to_input(g: Tensor, weight: Tensor) -> Tensor:
    values, gradients = formats(g.device)
    return product(g.flatten(0, -2), weight.T, gradients, values).unflatten(0, g.shape[:-1])


def to_weight(g: Tensor, x: Tensor) -> Tensor:
    values, gradients = formats(g.device)
    return product(g.flatten(0, -2).T, x.flatten(0, -2).T, gradients, values)


PRODUCTS = Products(output, to_input, to_weight)


def product(left: Tensor, right: Tensor, left_format: torch.dtype, right_format: torch.dtype) -> Tensor:
    """left [N, K], right [M, K] -> [N, M], in the format of `left`, as which numbers are summed in fp32 all the same."""
    a, a_scale = quantized(left, left_format)
    b, b_scale = quantized(right, right_format)
    if isinstance(left, FakeTensor) or multiplies_fp8(left.device):
        return torch.ops.aten._scaled_mm(a, b.T, a_scale, b_scale.T, out_dtype=left.dtype)
    with torch.autocast(left.device.type, enabled=False):
        return ((a.float() * a_scale) @ (b.float() * b_scale).T).to(left.dtype)


def quantized(rows: Tensor, code: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes [N, K], one row after the other, and each row's scale [N, 1]: codes times scale are the numbers."""
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True, dtype=torch.float32).clamp(min=LEAST)
    _, exponent = torch.frexp(torch.finfo(code).max / largest)
    scale = torch.ldexp(torch.ones_like(largest), 1 - exponent)
    scale = torch.where(largest.isfinite(), scale, torch.nan)  # else infinity would become the largest code
    return (rows * scale.reciprocal().to(rows.dtype)).to(code, memory_format=torch.contiguous_format), scale


def formats(device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Of values and of gradients: MI300 has formats without infinities and with another bias."""
    if device.type == "cuda" and torch.version.hip is not None and _architecture(device).startswith("gfx94"):
        return torch.float8_e4m3fnuz, torch.float8_e5m2fnuz
    return torch.float8_e4m3fn, torch.float8_e5m2


@functools.cache
def multiplies_fp8(device: torch.device) -> bool:
    """Whether a device multiplies codes as they are. Warns where it does not and nobody asked for the twin."""
    if os.environ.get(CHOICE) == "eager":
        return False
    if _has_units(device):
        return True
    print(
        "warning: no units for fp8 here: products run in fp32, rounded as fp8 rounds and slower than bf16",
        file=sys.stderr,
    )
    return False


def _has_units(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    if torch.version.hip is not None:
        return _architecture(device).startswith(("gfx94", "gfx95"))
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def _architecture(device: torch.device) -> str:
    return torch.cuda.get_device_properties(device).gcnArchName
