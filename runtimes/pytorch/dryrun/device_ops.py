"""Ops as an accelerator has them, for a dry run whose tensors claim to be on a CPU.

PyTorch takes the RMS norm of a CPU apart and saves four tensors for its backward pass; on accelerators one kernel does it
and saves its input and a number a row. Other ops that generated programs call save the same on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        rows = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)  # the reciprocal root of the mean square
        ctx.save_for_backward(x, weight, rows)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


@contextmanager
def ops_of_accelerators() -> Iterator[None]:
    """Ops that an accelerator runs as one, for the length of the block; what they compute is left out."""
    kept = F.rms_norm
    F.rms_norm = _rms_norm  # a function mode would not see what checkpointing computes again
    try:
        yield
    finally:
        F.rms_norm = kept


def _rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    out = _RmsNorm.apply(x, weight)
    assert isinstance(out, Tensor)
    return out
