"""Numbers to codes of a few bits that share a scale in bf16, to nearest."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(values: Tensor, scales: Tensor, least: int, most: int) -> Tensor:
    step = scales.float()[..., None]
    return (values / step).round().nan_to_num(0.0).clamp(least, most)  # a group of zeros has the scale 0


def rounded_up(scales: Tensor) -> Tensor:
    """To the next bf16 away from zero: one that is too small would cut off the largest number."""
    nearest = scales.to(torch.bfloat16)
    bits = nearest.view(torch.int16) + (nearest.float().abs() < scales.abs()).to(torch.int16)
    return bits.view(torch.bfloat16)


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., C] -> codes [..., C], scales [...]"""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    scales = rounded_up(x.abs().amax(-1) / 127)
    return rounded(x, scales, -127, 127).to(torch.int8), scales


def from_int8(codes: Tensor, scales: Tensor, *, dtype: torch.dtype) -> Tensor:
    """codes [..., C], scales [...] -> numbers [..., C]; in bf16 rounded once."""
    return codes.to(dtype) * scales[..., None].to(dtype)
