"""Attention in plain PyTorch, which runs where there is no TPU; there kernels/causal_attention_tpu.py and decode_attention_tpu.py do."""

from __future__ import annotations

from torch import Tensor

from ..reference.attention import attend
from ..reference.decode_attention import attend_to_sequences
from . import device
from .cache import sequences
from .device import Spread


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    spread: Spread,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """q [B, H, T, C], k and v [B, K, T, C] -> [B, H, T, C]; `spread` is how [B, H, T, C] is cut: whole sequences, some heads."""
    group = q.shape[1] // k.shape[1]
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = _repeated(k, group), _repeated(v, group)
    q, k, v = (device.annotated(each, spread) for each in (q, k, v))
    return device.annotated(attend(q, k, v, scale=factor, window=window, softcap=softcap), spread)


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    blocks: Tensor,
    lengths: Tensor,
    *,
    block_tokens: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """q [B, H, 1, C] -> [B, H, 1, C]; a sequence sees the first `lengths` [B] tokens in its `blocks` [B, N] of the cache [K, rows, C] x 2."""
    k, v = (sequences(each, blocks, lengths, block_tokens=block_tokens) for each in (keys, values))
    return attend_to_sequences(q, k, v, lengths, scale=scale, window=window, softcap=softcap)


def _repeated(x: Tensor, group: int) -> Tensor:
    """[B, K, T, C] -> [B, H, T, C]: each key head for the queries that it serves."""
    return x if group == 1 else x.repeat_interleave(group, dim=1)
