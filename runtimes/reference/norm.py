"""Norms of the residual stream, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def add_rms_norm(
    x: Tensor | None,
    branch: Tensor,
    weight: Tensor,
    *,
    eps: float,
    unit_offset: bool = False,
    stream: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The residual stream x + branch [..., D], at least of dtype `stream`, and its normed copy [..., D] in the dtype of branch.

    RMSNorm (Zhang 2019): v / sqrt(mean(v^2) + eps) * weight; with unit_offset the weight [D] is stored less one.
    x is None before the first layer: the stream starts with the branch.
    """
    total = _sum(x, branch, stream)
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return total, (normed * _factor(weight, wide, unit_offset)).type_as(branch)


def add_layer_norm(
    x: Tensor | None,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    eps: float,
    unit_offset: bool = False,
    stream: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The same with LayerNorm (Ba 2016): (v - mean(v)) / sqrt(mean((v - mean(v))^2) + eps) * weight + bias."""
    total = _sum(x, branch, stream)
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    h = normed * _factor(weight, wide, unit_offset)
    return total, (h if bias is None else h + bias).type_as(branch)


def _sum(x: Tensor | None, branch: Tensor, stream: torch.dtype) -> Tensor:
    total = branch if x is None else x + branch
    return total.to(torch.promote_types(branch.dtype, stream))


def _factor(weight: Tensor, wide: Tensor, unit_offset: bool) -> Tensor:
    return 1.0 + weight.to(wide.dtype) if unit_offset else weight.to(wide.dtype)
