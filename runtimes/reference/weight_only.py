"""Weights in 8 or 4 bits, in plain PyTorch: how they are rounded, and what a linear layer with them is.

A row of a weight [N, K] is cut into groups of `group` numbers, the last of which may be shorter. A group has a scale, and
with `has_offset` the number that its code 0 stands for, near the middle of its range:

    weight = scale * code [+ offset]       code: -127 ... 127 in 8 bits, -8 ... 7 in 4

Scales and offsets are bf16. Codes are chosen for the rounded scale, so that its rounding costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SHRUNK = (1.0, 0.94, 0.88, 0.82)
"""Of the scale that reaches a group's largest number: in four bits a smaller one may cost it less than it spares the others."""


class Quantised(NamedTuple):
    codes: Tensor  # [N, K], int8
    scales: Tensor  # [N, groups], bf16
    offsets: Tensor | None  # [N, groups], bf16


def quantise(weight: Tensor, *, bits: int, group: int, has_offset: bool = False) -> Quantised:
    """Round to nearest, a group at a time."""
    rows, size = weight.shape
    groups = -(-size // group)
    values = torch.zeros(rows, groups * group)
    values[:, :size] = weight.float()
    values = values.view(rows, groups, group)
    if size % group:  # what fills the last group up must not widen its range
        values[:, -1, size % group :] = values[:, -1, :1]
    if has_offset:
        assert bits == 4, "bytes have a sign"
        codes, scales, offsets = _from_the_middle(values)
    elif bits == 8:
        scales = rounded_up(values.abs().amax(-1) / 127)
        codes, offsets = rounded(values, scales, -127, 127), None
    else:
        codes, scales = _best_of_four_bits(values)
        offsets = None
    return Quantised(codes.view(rows, -1)[:, :size].to(torch.int8).contiguous(), scales, offsets)


def dequantise(weight: Quantised, *, group: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [N, K] that codes, scales and offsets stand for."""
    size = weight.codes.shape[1]
    values = weight.codes.to(dtype) * _each(weight.scales, group, size, dtype)
    return values if weight.offsets is None else values + _each(weight.offsets, group, size, dtype)


def weight_only_linear(x: Tensor, weight: Quantised, bias: Tensor | None = None, *, group: int) -> Tensor:
    """x [..., K] -> [..., N]."""
    values = dequantise(weight, group=group, dtype=torch.promote_types(x.dtype, torch.float32))
    return F.linear(x, values.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _each(of_groups: Tensor, group: int, size: int, dtype: torch.dtype) -> Tensor:
    return of_groups.to(dtype).repeat_interleave(group, dim=1)[:, :size]


def rounded(values: Tensor, scales: Tensor, least: int, most: int) -> Tensor:
    step = scales.float()[..., None]
    return (values / step).round().nan_to_num(0.0).clamp(least, most)  # a group of zeros has the scale 0


def rounded_up(scales: Tensor) -> Tensor:
    """To the next bf16 away from zero: one that is too small would cut off the largest number."""
    nearest = scales.to(torch.bfloat16)
    bits = nearest.view(torch.int16) + (nearest.float().abs() < scales.abs()).to(torch.int16)
    return bits.view(torch.bfloat16)


def _from_the_middle(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    least, most = values.amin(-1), values.amax(-1)
    scales = rounded_up((most - least) / 15)
    offsets = ((least + 8 * scales.float() + most - 7 * scales.float()) / 2).to(torch.bfloat16)
    return rounded(values - offsets.float()[..., None], scales, -8, 7), scales, offsets


def _best_of_four_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number farthest from zero is -8 steps from it, as four bits reach farther on that side: scales have a sign."""
    at = values.abs().argmax(-1, keepdim=True)
    reach = values.gather(-1, at).squeeze(-1) / -8
    best_codes = best_scales = best_error = None
    for share in _SHRUNK:
        scales = rounded_up(reach * share)
        codes = rounded(values, scales, -8, 7)
        error = (codes * scales.float()[..., None] - values).square().sum(-1)
        if best_codes is None or best_scales is None or best_error is None:
            best_codes, best_scales, best_error = codes, scales, error
            continue
        is_better = error < best_error
        best_codes = codes.where(is_better[..., None], best_codes)
        best_scales, best_error = scales.where(is_better, best_scales), torch.minimum(error, best_error)
    assert best_codes is not None
    assert best_scales is not None
    return best_codes, best_scales
