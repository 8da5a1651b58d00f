"""Memory for what kernels on a CPU compute, in blocks that the C library can use again.

PyTorch asks for addresses that are multiples of 64. For n such bytes glibc (2.36 and others) looks for a hole of n + 96 bytes, so that a tensor
never takes the place of a freed one of its own size: between what a forward pass keeps and what it frees, a training step of
134M parameters left 0.2 GiB of holes. Here the program asks for 64 bytes more, and finds the multiple itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_ALIGNMENT = 64  # bytes: a line of a cache, and a vector of AVX-512
LEAST_BYTES = 1 << 16  # below this holes do not matter


def empty(shape: Sequence[int], *, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor without contents, where `like` is. Fake tensors, with which a program is checked without being run, make fake ones."""
    dtype = dtype or like.dtype
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes < LEAST_BYTES or type(like) not in (Tensor, nn.Parameter) or not like.is_cpu:
        return torch.empty(shape, dtype=dtype, device=like.device)
    block = torch.from_numpy(np.empty(num_bytes + _ALIGNMENT, dtype=np.uint8))
    start = -block.data_ptr() % _ALIGNMENT
    return block[start : start + num_bytes].view(dtype).view(shape)


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return empty(x.shape, like=x, dtype=dtype)
