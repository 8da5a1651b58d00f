"""Weights in 8 or 4 bits, in plain PyTorch: how they are rounded, and what a linear layer with them is.

A row of a weight [N, K] is cut into groups of `group` numbers, the last of which may be shorter. A group has a scale, and
with `has_offset` the number that its code 0 stands for, near the middle of its range:

    weight = scale * code [+ offset]       code: -127 ... 127 in 8 bits; in 4 one of FOUR_BITS, or -8 ... 7 beside an offset

A scale is a byte, times a unit in bf16 that its row has; beside an offset both are bf16. Codes are chosen for the
rounded scale, so that its rounding costs next to nothing. Where it is known how large the numbers are that a column is multiplied
with, scales of FOUR_BITS are chosen for what products lose, and not for what the weight does.

Inputs may be rounded to 8 bits as well, as they come: a scale in bf16 for INPUT_GROUP of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rounding import from_int8, rounded, rounded_up, to_int8

INPUT_GROUP = 32
FOUR_BITS = (-127, -98, -76, -59, -44, -32, -20, -8, 3, 14, 26, 38, 52, 68, 89, 122)
"""What the codes 0 to 15 stand for: closer together near zero, where most weights are. Lloyd's algorithm found them on normal numbers, each
group of 32 with the scale of either sign that leaves least. Bytes, so that products of integers take them too."""
_REACHES = (-127.0, -134.0, -142.0, -150.0, -158.0, 122.0, 130.0, 139.0)
"""What a group's largest number may be in steps of its scale: beyond the ends it costs more, and spares the others."""
_MIDDLE_REACHES = (-142.0, 130.0)
"""On either side of zero, where there is no search."""


class Quantised(NamedTuple):
    codes: Tensor  # [N, K], int8
    scales: Tensor  # [N, groups], int8; bf16 beside offsets
    offsets: Tensor | None  # [N, groups], bf16
    units: Tensor | None  # [N], bf16; of scales that are int8


def quantise(
    weight: Tensor,
    *,
    bits: int,
    group: int,
    has_offset: bool = False,
    inputs: Tensor | None = None,
    searches: bool = True,
) -> Quantised:
    """Round to nearest, a group at a time. `inputs` are mean squares of what columns are multiplied with [K]. `searches`: scales of
    FOUR_BITS are the best of nine, and else of two."""
    rows, size = weight.shape
    groups = -(-size // group)
    values = torch.zeros(rows, groups * group)
    values[:, :size] = weight.float()
    values = values.view(rows, groups, group)
    if size % group:  # what fills the last group up must not widen its range
        values[:, -1, size % group :] = values[:, -1, :1]
    offsets = units = None
    if has_offset:
        assert bits == 4, "bytes have a sign"
        codes, scales, offsets = _from_the_middle(values)
    elif bits == 8:
        codes, scales, units = _by_the_largest(values)
    else:
        importance = None if inputs is None else F.pad(inputs.float(), (0, -size % group)).view(groups, group)
        codes, scales, units = _best_of_four_bits(values, importance, searches=searches)
    return Quantised(codes.view(rows, -1)[:, :size].to(torch.int8).contiguous(), scales, offsets, units)


def dequantise(weight: Quantised, *, group: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [N, K] that codes, scales and offsets stand for."""
    size, scales = weight.codes.shape[1], weight.scales.to(dtype)
    if weight.units is not None:
        scales = scales * weight.units.to(dtype)[:, None]
    values = weight.codes.to(dtype) * _each(scales, group, size, dtype)
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


def _by_the_largest(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The least scale, of whole units, that cuts no number of its group off."""
    steps = values.abs().amax(-1) / 127
    units = rounded_up(steps.amax(-1) / 127)
    scales = (steps / units.float()[:, None]).nan_to_num(0.0).ceil().clamp(1, 127)  # a row of zeros has the unit 0
    return rounded(values, scales * units.float()[:, None], -127, 127), scales.to(torch.int8), units


def _best_of_four_bits(values: Tensor, importance: Tensor | None, *, searches: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The best scale of several, and then the one that fits its codes best; without a search the better of two, by all errors alike.
    Where nobody says what is important, the errors of large numbers count for more, as it is they that a product is made of."""
    largest = values.gather(-1, values.abs().argmax(-1, keepdim=True)).squeeze(-1)
    units = rounded_up(largest.abs().amax(-1) / min(-FOUR_BITS[0], FOUR_BITS[-1]) / 127)
    if not searches:
        importance = torch.ones(())
    elif importance is None:
        squares = values.square()
        importance = squares + squares.mean((-1, -2), keepdim=True)
    first, *others = _REACHES if searches else _MIDDLE_REACHES
    best = _tried(values, importance, largest / first, units)
    for reach in others:
        best = _better(best, _tried(values, importance, largest / reach, units))
    if searches:
        codes = _nearest(values, best.scales, units)
        weighted = importance * codes
        fitting = (weighted * values).sum(-1) / (weighted * codes).sum(-1)
        best = _better(best, _tried(values, importance, fitting, units))
    return _nearest(values, best.scales, units), best.scales.to(torch.int8), units


class _Tried(NamedTuple):
    scales: Tensor
    errors: Tensor


def _tried(values: Tensor, importance: Tensor, steps: Tensor, units: Tensor) -> _Tried:
    """Operations that change what they read: a search is bound by memory."""
    scales = _whole(steps, units)
    off = _nearest(values, scales, units).mul_((scales * units.float()[:, None])[..., None]).sub_(values)
    return _Tried(scales, off.square_().mul_(importance).sum(-1))


def _better(one: _Tried, other: _Tried) -> _Tried:
    """Group by group."""
    return _Tried(other.scales.where(other.errors < one.errors, one.scales), torch.minimum(one.errors, other.errors))


def _whole(steps: Tensor, units: Tensor) -> Tensor:
    """Steps in units, of either sign."""
    scales = (steps / units.float()[:, None]).nan_to_num(0.0)  # a row of zeros has the unit 0
    return scales.sign() * scales.abs().round().clamp(1, 127)


def _nearest(values: Tensor, scales: Tensor, units: Tensor) -> Tensor:
    """Codes: those of FOUR_BITS. All lie half way between two of them at a multiple of a half, so a look-up by halves finds it."""
    per_half = (2 / (scales * units.float()[:, None])).nan_to_num(posinf=0.0, neginf=0.0)
    halves = (values * per_half[..., None]).add_(256).clamp_(0, 511).to(torch.int32)
    return _NEAREST.index_select(0, halves.flatten()).view_as(values)


def _nearest_of_halves() -> Tensor:
    table = torch.tensor(FOUR_BITS, dtype=torch.float32)
    middles = torch.arange(-128, 128, 0.5) + 0.25
    return table[(middles[:, None] - table).abs().argmin(-1)]


_NEAREST = _nearest_of_halves()
