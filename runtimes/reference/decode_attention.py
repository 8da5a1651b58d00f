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
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    y = attend_to_sequences(q, keys, values, lengths, scale=scale, window=window, softcap=softcap)
    return y.transpose(1, 2).flatten(2)


def attend_to_sequences(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """q [B, H, 1, C], keys and values [B, K, S, C], of which the first `lengths` [B] are there -> [B, H, 1, C]."""
    at = torch.arange(keys.shape[2], device=keys.device)
    is_seen = at < lengths[:, None]
    if window is not None:
        is_seen &= at >= lengths[:, None] - window
    if softcap is not None:
        return _capped(q, keys, values, is_seen, scale=scale, softcap=softcap)
    mask, is_grouped = is_seen[:, None, None], q.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale, enable_gqa=is_grouped)


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
    """q [B, H, 1, C], k and v [B, K, S, C] -> [B, H, 1, C]; every score exists."""
    group = q.shape[1] // k.shape[1]
    k, v = (each.repeat_interleave(group, dim=1) for each in (k, v))  # [B, H, S, C] x 2
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~is_seen[:, None, None], -torch.inf).softmax(-1)
    return weights.type_as(v) @ v
