"""Ops as an accelerator has them, for a dry run whose tensors claim to be on a CPU.

PyTorch takes the RMS norm of a CPU apart and saves four tensors for its backward pass; on accelerators one kernel does it
and saves its input and a number a row. Attention has a kernel on accelerators, which gives the heads of a token side by side; on a CPU
heads come one after the other where queries were rotated, and scores are in memory where values are narrower than queries (latent
attention). torch-npu's gives heads as it gets them, as a CPU does. Other ops that generated programs call save the same on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        rows = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)  # the reciprocal root of the mean square
        ctx.save_for_backward(x, weight, rows)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)  # as kernels lay it out
        rows = q.new_empty(q.shape[:-1], dtype=torch.float32)  # the logarithm of the exponentials' sum
        ctx.save_for_backward(q, k, v, y, rows)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@contextmanager
def ops_of_accelerators(device: str = "gpu") -> Iterator[None]:
    """Ops that an accelerator of this kind runs as one, for the length of the block; what they compute is left out."""
    kept = F.rms_norm, F.scaled_dot_product_attention
    F.rms_norm = _rms_norm  # a function mode would not see what checkpointing computes again
    F.scaled_dot_product_attention = _attention_with(kept[1], is_npu=device == "npu")
    try:
        yield
    finally:
        F.rms_norm, F.scaled_dot_product_attention = kept


def _rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    out = _RmsNorm.apply(x, weight)
    assert isinstance(out, Tensor)
    return out


def _attention_with(torchs: Callable[..., Tensor], *, is_npu: bool) -> Callable[..., Tensor]:
    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if attn_mask is not None or (is_npu and (q.shape[-1] == v.shape[-1] or q.shape[1] != k.shape[1])):
            return torchs(q, k, v, attn_mask, **kwargs)
        out = _Attention.apply(q, k, v)
        assert isinstance(out, Tensor)
        return out

    return attention
