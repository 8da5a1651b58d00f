"""Rotary positions on Ascend: one kernel in the place of two halves, four products and a copy."""

from __future__ import annotations

import torch
from torch import Tensor


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """x [B, H, T, C] with pairs turned in fp32 through `npu_rotary_mul`; cos and sin [.., T, C] have each angle twice.

    Pairs are halves apart, or neighbours if interleaved. On other devices in plain PyTorch.
    """
    wide = x.float()
    if x.device.type == "npu":
        mode = "interleave" if interleaved else "half"
        return torch.ops.npu.npu_rotary_mul(wide, cos, sin, rotary_mode=mode).type_as(x)
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else wide.chunk(2, dim=-1)
    quarter = torch.stack((-b, a), dim=-1).flatten(-2) if interleaved else torch.cat((-b, a), dim=-1)
    return (wide * cos + quarter * sin).type_as(x)
