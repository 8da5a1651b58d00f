"""Causal attention: a Pallas kernel on TPUs, plain PyTorch elsewhere. The same numbers to rounding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import device
from .device import Spread

uses_kernel = device.is_tpu
"""Whether attention is the kernel; dry runs say yes on a CPU (stage.py)."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, spread: Spread, scale: float | None = None) -> Tensor:
    """q [B, H, T, C], k and v [B, K, T, C] -> [B, H, T, C]; `spread` is how [B, H, T, C] is cut: whole sequences, some heads."""
    group = q.shape[1] // k.shape[1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if uses_kernel():
        return _FlashAttention.apply(q, k, v, group, scale, spread)  # type: ignore[return-value]
    k, v = _repeated(k, group), _repeated(v, group)
    q, k, v = (device.annotated(each, spread) for each in (q, k, v))
    return device.annotated(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale), spread)


class _FlashAttention(torch.autograd.Function):
    """The kernel of JAX that torch_xla wraps, without keeping a copy of each key for each of its queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, group: int, scale: float, spread: Spread) -> Tensor:
        forward, _ = _kernels()
        mesh = str(device.mesh())
        y, _, _, _, lse_sum, lse_max, _ = forward(
            q,
            _repeated(k, group),
            _repeated(v, group),
            True,
            None,
            None,
            scale,
            None,
            repr(spread),
            mesh,
            [True] * 3 + [False] * 7,
        )
        lse = lse_max + lse_sum.log()  # [B, H, T]
        device.barrier(
            [y, lse]
        )  # else the compiler keeps the kernel's own 128 copies of it, and takes one when it needs it
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.options = (group, scale, spread)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        _, backward = _kernels()
        q, k, v, y, lse = ctx.saved_tensors
        group, scale, spread = ctx.options
        k, v, grad = k.clone(), v.clone(), grads[0].clone()
        device.barrier([k, v, grad])  # else keys are repeated once, in the forward pass, and kept so
        wide_k, wide_v = _repeated(k, group), _repeated(v, group)
        mesh = str(device.mesh())
        shapes = (list(q.shape), list(wide_k.shape), None)
        dq, dk, dv, _ = backward(
            grad,
            q,
            wide_k,
            wide_v,
            y,
            torch.ones_like(lse),  # of exp(score - lse), the sum
            lse,
            None,
            None,
            None,
            True,
            scale,
            repr(spread),
            mesh,
            *shapes,
            [True] * 3 + [False] * 7,
        )
        return dq, _summed(dk, group), _summed(dv, group), None, None, None


def _kernels() -> tuple[Any, Any]:
    from torch_xla.experimental import custom_kernel  # pyright: ignore[reportMissingImports]

    return custom_kernel.fa_custom_forward, custom_kernel.fa_custom_backward


def _repeated(x: Tensor, group: int) -> Tensor:
    """[B, K, T, C] -> [B, H, T, C]: each key head for the queries that it serves."""
    return x if group == 1 else x.repeat_interleave(group, dim=1)


def _summed(grad: Tensor, group: int) -> Tensor:
    return grad if group == 1 else grad.unflatten(1, (-1, group)).sum(2)
