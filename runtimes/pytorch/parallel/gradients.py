"""Between the backward pass and the optimizer: gradients that several ranks share are summed, and the norm is taken."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .cuts import Cuts, local_part
from .mesh import Axis


def sum_shared_gradients(model: nn.Module, cuts: Cuts, axis: Axis) -> None:
    """Add up, over an axis of tp's copies, the gradients of what all its ranks hold and each sees a share of.

    One all-reduce for all of them: norms and biases are short.
    """
    shared = [
        piece.tensor for piece in cuts.gradients(model) if piece.part.is_shared and piece.part.copies == axis.size
    ]
    if not shared:
        return
    flat = torch.cat([gradient.flatten() for gradient in shared])
    dist.all_reduce(flat, group=axis.group)
    for gradient, summed in zip(shared, flat.split([gradient.numel() for gradient in shared]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def sum_of_squares(model: nn.Module, cuts: Cuts) -> Tensor:
    """This rank's share of the squared norm of the whole gradient: what n ranks hold, each counts with 1/n."""
    pieces = list(cuts.gradients(model))
    norms = torch.stack(torch.ops.aten._foreach_norm.Scalar([piece.tensor for piece in pieces], 2))
    shares = torch.tensor([1.0 / piece.copies for piece in pieces], dtype=norms.dtype, device=norms.device)
    return (shares * norms.square()).sum()


def clip_gradients(model: nn.Module, norm: Tensor, *, most: float) -> None:
    """Scale all gradients so that their norm, which is `norm`, is at most `most`."""
    gradients = [local_part(each.grad)[0] for each in model.parameters() if each.grad is not None]
    torch.ops.aten._foreach_mul_.Tensor(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
