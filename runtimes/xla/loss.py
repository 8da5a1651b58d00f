"""The loss in a form that the compiler cuts well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import device
from .device import Spread


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    spread: Spread,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """The loss summed over tokens, as runtimes/reference/loss.py has it: hidden [B, T, D], weight [V, D], targets [B, T].

    The target's logit is picked with a comparison, not with a lookup: where tp cuts the vocabulary, each device picks from its
    own part, and one small sum does the rest. `spread` is how logits [B, T, V] are cut. XLA keeps logits in the format of the product, and computes the rest as it reads them.
    """
    x = device.annotated(F.linear(hidden, weight, bias), spread)
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # [B, T, V]
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    lse = x.logsumexp(-1)  # [B, T]
    is_target = torch.arange(x.shape[-1], device=x.device) == targets[..., None]
    losses = lse - torch.where(is_target, x, 0.0).sum(-1)
    return (losses + z_loss * lse.square()).sum() if z_loss else losses.sum()
