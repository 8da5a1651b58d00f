"""Attention of pieces of prompts to a paged cache, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import int8_cache
from .attention import rotate


def prefill_attention(
    qkv: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    cache: tuple[Tensor, ...],
    written: Tensor,
    read: Tensor,
    positions: Tensor,
    bounds: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """qkv [1, T, (H + 2K) * C] -> [1, T, H * C]; the tokens' keys and values go to rows `written` [T] of the cache [rows, K, C] x 2.
    One in int8 has scales [rows, K] x 2 behind its codes.

    Piece p has tokens bounds[p] to bounds[p + 1]. They stand at `positions` [T] of the sequence in rows read[p] of [P, S], and
    see its keys up to themselves, at most the last `window`.
    """
    q, k, v = (
        qkv[0].unflatten(-1, (num_heads + 2 * num_kv_heads, -1)).split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    )  # [T, H, C], [T, K, C] x 2
    if angles is not None:
        cos, sin = (each.reshape(len(q), 1, -1) for each in angles)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    int8_cache.write(cache, k, v, written)
    found = []
    for rows, begin, end in zip(read, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        at = positions[begin:end, None]
        seen = rows[: int(at.max()) + 1]
        keys, values = int8_cache.read(cache, seen[None], dtype=qkv.dtype)  # [1, S, K, C] x 2
        key = torch.arange(len(seen), device=rows.device)
        mask = (key <= at) if window is None else (key <= at) & (key > at - window)  # [tokens of the piece, keys]
        y = F.scaled_dot_product_attention(
            q[None, begin:end].transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask,
            scale=scale,
            enable_gqa=num_heads != num_kv_heads,
        )  # [1, H, tokens, C]
        found.append(y.transpose(1, 2).flatten(2))
    return torch.cat(found, dim=1)
