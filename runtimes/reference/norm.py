"""Norms of the residual stream, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def add_rms_norm(
    x: Tensor | None, branch: Tensor, weight: Tensor, *, eps: float, unit_offset: bool = False
) -> tuple[Tensor, Tensor]:
    """The residual stream x + branch [..., D], at least fp32, and its normed copy [..., D] in the dtype of branch.

    RMSNorm (Zhang 2019): v / sqrt(mean(v^2) + eps) * weight; with unit_offset the weight [D] is stored less one.
    x is None before the first layer: the stream starts with the branch.
    """
    wide = torch.promote_types(branch.dtype, torch.float32)
    total = branch.to(wide) if x is None else x + branch
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps)
    scale = 1.0 + weight.to(wide) if unit_offset else weight.to(wide)
    return total, (normed * scale).type_as(branch)
