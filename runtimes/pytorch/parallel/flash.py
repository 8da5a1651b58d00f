"""Attention to one block of keys, with the log-sum-exp that merges blocks: PyTorch's own kernels, CPU and CUDA.

They want heads of one size. Values of latent attention, which are narrower than its keys, get zeros beside them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ops = torch.ops.aten


def block_forward(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """q [B, H, T, C], k [B, K, S, C], v [B, K, S, U] -> what queries find [B, H, T, U], and their log-sum-exp [B, H, T]."""
    wide, size = _wide_as(q, v), v.shape[-1]
    if q.is_cuda:
        out, lse, *_ = _ops._scaled_dot_product_flash_attention(q, k, wide, 0.0, is_causal, scale=scale)
    else:
        out, lse = _ops._scaled_dot_product_flash_attention_for_cpu(q, k, wide, 0.0, is_causal, scale=scale)
    return out[..., :size], lse


def block_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v. `out` and `lse` are those of all blocks together: so each block's share comes out."""
    size = v.shape[-1]
    grad, v, out = (_wide_as(q, each) for each in (grad, v, out))
    if q.is_cuda:
        none = torch.empty(0, dtype=torch.int64, device=q.device)  # neither sequences of several lengths nor dropout
        d_q, d_k, d_v = _ops._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, none, none, q.shape[2], k.shape[2], 0.0, is_causal, none, none, scale=scale
        )
    else:
        d_q, d_k, d_v = _ops._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, is_causal, scale=scale
        )
    return d_q, d_k, d_v[..., :size]


def _wide_as(q: Tensor, x: Tensor) -> Tensor:
    return x if x.shape[-1] == q.shape[-1] else F.pad(x, (0, q.shape[-1] - x.shape[-1]))
