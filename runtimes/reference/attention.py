"""Attention over packed queries, keys and values, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(
    qkv: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    *,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """qkv [B, T, (H + 2K) * C] -> [B, T, H * C]: each token attends to itself and those before, at most `window` in all.

    With angles, cos and sin [T, C / 2], queries and keys are rotated (Su 2021): pairs (x[j], x[C/2 + j]) by their angle.
    """
    q, k, v = (
        qkv.unflatten(-1, (num_heads + 2 * num_kv_heads, -1))
        .transpose(1, 2)
        .split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    )  # [B, H, T, C], [B, K, T, C] x 2
    if angles is not None:
        q, k = rotate(q, *angles), rotate(k, *angles)
    mask = None if window is None else _window_mask(qkv.shape[1], window=window)
    is_grouped = num_heads != num_kv_heads
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=is_grouped
    )
    return y.transpose(1, 2).flatten(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of the two halves of a head turned by their angles: x [B, H, T, C], cos and sin [T, C / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).type_as(x)


def _window_mask(num_tokens: int, *, window: int) -> Tensor:
    """[T, T]: true where a query (row) sees a key."""
    positions = torch.arange(num_tokens)
    distance = positions[:, None] - positions
    return (distance >= 0) & (distance < window)
