"""Weights in 8 or 4 bits, in plain PyTorch: how they are rounded, and what a linear layer with them is.

A row of a weight [N, K] is cut into groups of `group` numbers, the last of which may be shorter. A group has a scale, and
with `has_offset` the number that its code 0 stands for, near the middle of its range:

    weight = scale * code [+ offset]       code: -127 ... 127 in 8 bits, -8 ... 7 in 4

Scales and offsets are bf16. Codes are chosen for the rounded scale, so that its rounding costs nothing.

Inputs may be rounded to 8 bits as well, as they come: a scale in bf16 for INPUT_GROUP of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rounding import from_int8, rounded, rounded_up, to_int8

INPUT_GROUP = 32
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, -1.14, -1.09, -1.03)
"""Of the scale that reaches a group's largest number with the code -8: in four bits a smaller one may cost it less than it spares the
others, and where numbers of the other sign are nearly as large, the largest is better off on the side that ends with 7."""


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


def weight_only_linear(
    x: Tensor, weight: Quantised, bias: Tensor | None = None, *, group: int, rounds_inputs: bool = False
) -> Tensor:
    """x [..., K] -> [..., N]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    values, bias = dequantise(weight, group=group, dtype=wide), None if bias is None else bias.to(x.dtype)
    if not rounds_inputs:
        return F.linear(x, values.to(x.dtype), bias)
    product = F.linear(rounded_to_bytes(x), values, None if bias is None else bias.to(wide))
    return product.to(x.dtype)


def rounded_to_bytes(x: Tensor) -> Tensor:
    """What codes of -127 to 127 and a scale for each INPUT_GROUP of neighbours leave of x [..., K], in fp32 or wider."""
    groups = F.pad(x, (0, -x.shape[-1] % INPUT_GROUP)).unflatten(-1, (-1, INPUT_GROUP))
    wide = torch.promote_types(x.dtype, torch.float32)
    return from_int8(*to_int8(groups), dtype=wide).flatten(-2)[..., : x.shape[-1]]


def _each(of_groups: Tensor, group: int, size: int, dtype: torch.dtype) -> Tensor:
    return of_groups.to(dtype).repeat_interleave(group, dim=1)[:, :size]


def _from_the_middle(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    least, most = values.amin(-1), values.amax(-1)
    scales = rounded_up((most - least) / 15)
    offsets = ((least + 8 * scales.float() + most - 7 * scales.float()) / 2).to(torch.bfloat16)
    return rounded(values - offsets.float()[..., None], scales, -8, 7), scales, offsets


def _best_of_four_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number farthest from zero is about -8 steps from it, as four bits reach farther on that side: scales have a sign. The best
    scale of several, and once more that which fits its codes best."""
    at = values.abs().argmax(-1, keepdim=True)
    reach = values.gather(-1, at).squeeze(-1) / -8
    best = _tried(values, rounded_up(reach))
    for share in _SHARES[1:]:
        best = _better(best, _tried(values, rounded_up(reach * share)))
    fitting = (best.codes * values).sum(-1) / best.codes.square().sum(-1)
    best = _better(best, _tried(values, fitting.nan_to_num(0.0).to(torch.bfloat16)))  # of a group of zeros it is none
    return best.codes, best.scales


class _Tried(NamedTuple):
    codes: Tensor
    scales: Tensor
    errors: Tensor


def _tried(values: Tensor, scales: Tensor) -> _Tried:
    codes = rounded(values, scales, -8, 7)
    return _Tried(codes, scales, (codes * scales.float()[..., None] - values).square().sum(-1))


def _better(one: _Tried, other: _Tried) -> _Tried:
    """Group by group."""
    is_better = other.errors < one.errors
    codes = other.codes.where(is_better[..., None], one.codes)
    return _Tried(codes, other.scales.where(is_better, one.scales), torch.minimum(one.errors, other.errors))
