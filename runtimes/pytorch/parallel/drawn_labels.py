"""Labels drawn from a model's own prediction, where the rows of the head are cut over tp."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..drawn_labels import wide_logits
from .mesh import Axis


@torch.no_grad()
def draw_labels(
    hidden: Tensor,
    weight: Tensor,
    draw: Tensor,
    tp: Axis,
    bias: Tensor | None = None,
    *,
    vocab_size: int,
    chunk: int,
    softcap: float | None = None,
) -> Tensor:
    """hidden [N, D], weight [V/n, D], draw [N] between zero and one -> labels [N], the same on all ranks of tp.

    Three all-reduces a chunk: of the largest logit, of each rank's sum of exponentials, of how many rows come before `draw`.
    """
    rows = len(weight)
    held = max(0, min(rows, vocab_size - tp.rank * rows))  # the rest is padding
    labels = []
    for start in range(0, len(hidden), chunk):
        logits = wide_logits(hidden[start : start + chunk], weight, bias, softcap)[:, :held]  # [n, V/n]
        largest = torch.full_like(logits[:, :1], -torch.inf) if not held else logits.amax(-1, keepdim=True)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=tp.group)
        sums = (logits - largest).exp().cumsum(-1)
        of_ranks = logits.new_zeros(tp.size, len(logits))
        if held:
            of_ranks[tp.rank] = sums[:, -1]
        dist.all_reduce(of_ranks, group=tp.group)
        threshold = draw[start : start + chunk] * of_ranks.sum(0) - of_ranks[: tp.rank].sum(0)
        before = (sums <= threshold[:, None]).sum(-1)
        dist.all_reduce(before, group=tp.group)
        labels.append(before.clamp(max=vocab_size - 1))
    return torch.cat(labels)
