"""Attention to one block of keys, with the log-sum-exp that merges blocks: PyTorch's own kernels, CPU and CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

_ops = torch.ops.aten


def block_forward(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """q [B, H, T, C], k and v [B, K, S, C] -> what queries find [B, H, T, C], and their log-sum-exp [B, H, T]."""
    if q.is_cuda:
        out, lse, *_ = _ops._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, scale=scale)
        return out, lse
    return _ops._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)


def block_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v. `out` and `lse` are those of all blocks together: so each block's share comes out."""
    if q.is_cuda:
        none = torch.empty(0, dtype=torch.int64, device=q.device)  # neither sequences of several lengths nor dropout
        return _ops._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, none, none, q.shape[2], k.shape[2], 0.0, is_causal, none, none, scale=scale
        )
    return _ops._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, is_causal, scale=scale
    )
