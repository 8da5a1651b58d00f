"""Keys and values in 8 bits, in plain PyTorch: each head of a token has a scale in bf16.

number = scale * code        code: -127 ... 127; the scale is that of the largest number, rounded up
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rounding import from_int8, to_int8


def write(cache: tuple[Tensor, ...], k: Tensor, v: Tensor, rows: Tensor) -> None:
    """k and v [..., K, C] to rows [...] of a cache [rows, K, C] x 2: as they are, or to int8 where scales [rows, K] x 2 are behind."""
    keys, values, *scales = cache
    if not scales:
        keys[rows], values[rows] = k, v
        return
    for codes, scale, numbers in zip((keys, values), scales, (k, v), strict=True):
        found = to_int8(numbers)
        codes[rows], scale[rows] = found[0], found[1].type_as(scale)


def read(cache: tuple[Tensor, ...], rows: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values [..., K, C] in rows [...]."""
    keys, values, *scales = (each[rows] for each in cache)
    if not scales:
        return keys, values
    return from_int8(keys, scales[0], dtype=dtype), from_int8(values, scales[1], dtype=dtype)
