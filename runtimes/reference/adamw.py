"""AdamW over master weights in two halves, in plain PyTorch (Loshchilov 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

_PIECE = 1 << 20
"""Numbers that are split at a time, which bounds what the step takes beside its result."""


def split(master: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 -> the nearest bf16 (the one of larger magnitude in the middle), and the rest as int16.

    The rest is the distance in units of the last bit of the fp32 number: it always fits, and `join` restores every bit.
    """
    weight, rest = torch.empty_like(master, dtype=torch.bfloat16), torch.empty_like(master, dtype=torch.int16)
    pieces = (tensor.flatten().split(_PIECE) for tensor in (master, weight.view(torch.int16), rest))
    for bits, upper_half, lower_half in zip(*pieces, strict=True):
        bits = bits.view(torch.int32)
        upper = (bits + 0x8000) >> 16
        upper_half.copy_(upper)
        lower_half.copy_(bits - (upper << 16))
    return weight, rest


def join(weight: Tensor, rest: Tensor) -> Tensor:
    """The fp32 number that `split` took apart."""
    return ((weight.view(torch.int16).to(torch.int32) << 16) + rest).view(torch.float32)


def adamw_step(
    weight: Tensor,
    rest: Tensor | None,
    mean: Tensor,
    square: Tensor,
    grad: Tensor,
    *,
    betas: tuple[float, float],
    eps: float,
    lr: float,
    shrink: float,
    scales: tuple[float, float, float],
) -> None:
    """One step in place; weight in bf16 with its rest, or in fp32 without; the moments in fp32.

    w = shrink w - lr m / (sqrt(v) + eps) with shrink = 1 - lr * weight decay. `scales` are the factors on the gradient
    (clipping), and on m and v, which started at zero: 1 / (1 - beta ** number of the step).
    """
    grad_scale, mean_scale, square_scale = scales
    scaled = grad.to(mean.dtype) * grad_scale
    mean.lerp_(scaled, 1.0 - betas[0])
    square.lerp_(scaled.square_(), 1.0 - betas[1])
    root = (square * square_scale).sqrt_().add_(eps)
    master = weight if rest is None else join(weight, rest)
    master.mul_(shrink).addcdiv_(mean, root, value=-lr * mean_scale)
    if rest is not None:
        upper, lower = split(master)
        weight.copy_(upper)
        rest.copy_(lower)
