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
    softcap: float | None = None,
    interleaved: bool = False,
) -> Tensor:
    """qkv [B, T, (H + 2K) * C] -> [B, T, H * C]: each token attends to itself and those before, at most `window` in all.

    With angles, cos and sin [T, R / 2], the first R numbers of queries and keys are rotated (Su 2021): pairs (x[j], x[R/2 + j]),
    or neighbours if interleaved, by their angle. With a softcap scores become softcap * tanh(scores / softcap).
    """
    q, k, v = (
        qkv.unflatten(-1, (num_heads + 2 * num_kv_heads, -1))
        .transpose(1, 2)
        .split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    )  # [B, H, T, C], [B, K, T, C] x 2
    if angles is not None:
        q, k = rotate(q, *angles, interleaved=interleaved), rotate(k, *angles, interleaved=interleaved)
    return attend(q, k, v, scale=scale, window=window, softcap=softcap).transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """The same of q [B, H, T, C], k and v [B, K, T, C] -> [B, H, T, C]; what is rotated is rotated already."""
    if softcap is not None:
        return _capped_attention(q, k, v, scale=scale, window=window, softcap=softcap)
    mask = None if window is None else _window_mask(q.shape[2], window=window).to(q.device)
    is_grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=is_grouped
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Pairs of a head turned by their angles: x [B, H, T, C], cos and sin [T, R / 2]; what is beyond R stays."""
    rotary = 2 * cos.shape[-1]
    part, rest = x[..., :rotary], x[..., rotary:]
    a, b = part.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else part.chunk(2, dim=-1)
    turned = a * cos - b * sin, b * cos + a * sin
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return torch.cat((joined.type_as(x), rest), dim=-1)


def _capped_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None, softcap: float) -> Tensor:
    """[B, H, T, C]; every score exists."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = softcap * torch.tanh(scores / softcap)
    num_tokens = q.shape[2]
    mask = _window_mask(num_tokens, window=num_tokens if window is None else window).to(q.device)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).type_as(v) @ v


def _window_mask(num_tokens: int, *, window: int) -> Tensor:
    """[T, T]: true where a query (row) sees a key."""
    positions = torch.arange(num_tokens)
    distance = positions[:, None] - positions
    return (distance >= 0) & (distance < window)
