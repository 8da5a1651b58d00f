"""Attention of one token a sequence to a paged cache, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import int8_cache
from .attention import rotate


def decode_attention(
    qkv: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    cache: tuple[Tensor, ...],
    written: Tensor,
    read: Tensor,
    lengths: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> Tensor:
    """qkv [B, 1, (H + 2K) * C] -> [B, 1, H * C]; the tokens' keys and values go to rows `written` [B, 1] of the cache [rows, K, C] x 2.

    A cache in int8 has scales [rows, K] x 2 behind its codes. `read` [B, S] are the rows of each sequence, which sees the first `lengths` [B] of them, at most the last `window`. With a
    softcap scores become softcap * tanh(scores / softcap); pairs that are rotated are halves apart, or neighbours if interleaved.
    """
    q, k, v = (
        qkv.unflatten(-1, (num_heads + 2 * num_kv_heads, -1))
        .transpose(1, 2)
        .split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    )  # [B, H, 1, C], [B, K, 1, C] x 2
    if angles is not None:
        cos, sin = (each.reshape(len(qkv), 1, 1, -1) for each in angles)
        q, k = rotate(q, cos, sin, interleaved=interleaved), rotate(k, cos, sin, interleaved=interleaved)
    int8_cache.write(cache, k.transpose(1, 2), v.transpose(1, 2), written)
    keys, values = int8_cache.read(cache, read, dtype=qkv.dtype)
    at = torch.arange(read.shape[1], device=read.device)
    is_seen = at < lengths[:, None]
    if window is not None:
        is_seen &= at >= lengths[:, None] - window
    if softcap is not None:
        return _capped(q, keys, values, is_seen, scale=scale, softcap=softcap)
    y = F.scaled_dot_product_attention(
        q,
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=is_seen[:, None, None],
        scale=scale,
        enable_gqa=num_heads != num_kv_heads,
    )
    return y.transpose(1, 2).flatten(2)


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    written: Tensor,
    blocks: Tensor,
    lengths: list[int],
    *,
    block_tokens: int,
    scale: float,
) -> Tensor:
    """q [B, H, 1, C] -> [B, 1, H * C]; k and v [B, K, 1, C] go to rows `written` [B, 1] of the cache [rows, K, C] x 2.

    Block i of a sequence is the rows from block_tokens * blocks[:, i] on, `blocks` [B, N]; it sees the first of `lengths` [B] of them.
    """
    keys[written] = k.transpose(1, 2)
    values[written] = v.transpose(1, 2)
    at = torch.arange(block_tokens, device=blocks.device)
    read = (block_tokens * blocks[..., None] + at).flatten(1)  # [B, S]
    is_seen = torch.arange(read.shape[1], device=read.device) < torch.tensor(lengths, device=read.device)[:, None]
    y = F.scaled_dot_product_attention(
        q,
        keys[read].transpose(1, 2),
        values[read].transpose(1, 2),
        attn_mask=is_seen[:, None, None],
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return y.transpose(1, 2).flatten(2)


def _capped(q: Tensor, k: Tensor, v: Tensor, is_seen: Tensor, *, scale: float, softcap: float) -> Tensor:
    """q [B, H, 1, C], k and v [B, S, K, C] -> [B, 1, H * C]; every score exists."""
    group = q.shape[1] // k.shape[2]
    k, v = (each.transpose(1, 2).repeat_interleave(group, dim=1) for each in (k, v))  # [B, H, S, C] x 2
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~is_seen[:, None, None], -torch.inf).softmax(-1)
    return (weights.type_as(v) @ v).transpose(1, 2).flatten(2)
