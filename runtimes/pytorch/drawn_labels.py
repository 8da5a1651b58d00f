"""Labels drawn from a model's own prediction, a chunk of logits at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def draw_labels(
    hidden: Tensor,
    weight: Tensor,
    draw: Tensor,
    bias: Tensor | None = None,
    *,
    chunk: int,
    softcap: float | None = None,
) -> Tensor:
    """hidden [N, D], weight [V, D], draw [N] between zero and one -> labels [N]: where the sum of probabilities passes `draw`."""
    labels = []
    for start in range(0, len(hidden), chunk):
        logits = wide_logits(hidden[start : start + chunk], weight, bias, softcap)  # [n, V]
        sums = logits.softmax(-1).cumsum(-1)
        labels.append((sums <= draw[start : start + chunk, None]).sum(-1).clamp(max=len(weight) - 1))
    return torch.cat(labels)


def wide_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Logits at least in fp32."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
