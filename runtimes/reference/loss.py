"""Cross-entropy with its gradient, in plain PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, targets: Tensor, *, z_loss: float = 0.0, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Each row's loss [N] and the gradient of their sum [N, V], from logits [N, V] and targets [N].

    loss = lse - logits[target] + z_loss * lse^2, with lse = log(sum(exp(logits))), at least in fp32. With a softcap the
    logits first become softcap * tanh(logits / softcap).
    """
    x = _capped(logits, softcap)
    lse = x.logsumexp(-1, keepdim=True)  # [N, 1]
    target = targets[:, None]
    losses = lse - x.gather(1, target) + z_loss * lse.square()
    grad = (x - lse).exp() * (1.0 + 2.0 * z_loss * lse)
    grad.scatter_add_(1, target, torch.full_like(lse, -1.0))
    if softcap is not None:
        grad *= 1.0 - (x / softcap).square()  # the slope of tanh
    return losses.squeeze(1), grad.to(logits.dtype)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """The loss summed over tokens, all logits at once: hidden [N, D], weight [V, D], targets [N], bias [V]."""
    x = _capped(F.linear(hidden, weight, bias), softcap)
    lse = x.logsumexp(-1)
    return (lse - x.gather(1, targets[:, None]).squeeze(1) + z_loss * lse.square()).sum()


def headroom(num_tokens: int, dtype: torch.dtype) -> float:
    """What hidden states are multiplied by before the gradient of the head is summed over tokens, and that is divided by later.

    A power of two near 1 / sqrt(tokens) in fp16, where the sum over tokens of a frequent word may not fit; else 1.
    """
    return 2.0 ** -math.ceil(math.log2(num_tokens) / 2) if dtype == torch.float16 else 1.0


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return x if softcap is None else softcap * torch.tanh(x / softcap)
