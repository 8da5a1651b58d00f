"""The embedding and the head with their rows cut over tp: lookups, logits, and the loss without those of all ranks in one place.

A rank has rows [rank * n, (rank + 1) * n) of the vocabulary. Where tp does not divide it, the last rows are padding, which
no token names and no softmax counts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ...reference.loss import headroom
from .mesh import Axis


def embed_rows(tokens: Tensor, weight: Tensor, tp: Axis) -> Tensor:
    """tokens [...] -> [..., D]: this rank's summand, zero where another rank has the row."""
    here, row = _own(tokens, rows=len(weight), tp=tp)
    return F.embedding(row, weight) * here[..., None].type_as(weight)


def all_logits(logits: Tensor, tp: Axis, *, vocab_size: int) -> Tensor:
    """Each rank's logits [..., V/n] -> all of them [..., V] on every rank, without the padding."""
    rows = logits.flatten(0, -2)  # [N, V/n]
    parts = rows.new_empty((tp.size * len(rows), rows.shape[1]))  # [n*N, V/n]
    dist.all_gather_single(parts, rows.contiguous(), group=tp.group)
    whole = parts.unflatten(0, (tp.size, -1)).movedim(0, 1).flatten(1)[:, :vocab_size]  # [N, V]
    return whole.unflatten(0, logits.shape[:-1])


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    tp: Axis,
    bias: Tensor | None = None,
    *,
    vocab_size: int,
    chunk: int,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """The loss summed over tokens, as runtimes/reference/loss.py has it: hidden [N, D], weight [V/n, D], targets [N].

    The logits of `chunk` tokens exist at a time. The gradient of hidden is this rank's summand.
    """
    options = (tp, vocab_size, chunk, z_loss, softcap)
    loss = _LinearCrossEntropy.apply(hidden, weight, targets, bias, options)
    assert isinstance(loss, Tensor)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, options: tuple[Any, ...]
    ) -> Tensor:
        tp, vocab_size, chunk, z_loss, softcap = options
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        x, w = hidden.to(dtype), weight.to(dtype)  # [N, D], [V/n, D]
        wide = torch.promote_types(dtype, torch.float32)
        has_grad = any(ctx.needs_input_grad)
        d_x = torch.empty_like(x) if has_grad else x
        d_w = torch.zeros_like(w, dtype=wide) if has_grad else w
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        total = torch.zeros((), dtype=wide, device=x.device)
        room = ctx.room = headroom(len(x), dtype)
        for start in range(0, len(x), chunk):
            part = slice(start, start + chunk)
            logits = F.linear(x[part], w, None if bias is None else bias.to(dtype)).to(wide)  # [n, V/n]
            losses, d_logits = cross_entropy(
                logits, targets[part], tp, vocab_size=vocab_size, z_loss=z_loss, softcap=softcap
            )
            total += losses.sum()
            if not has_grad:
                continue
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(dtype)
            torch.mm(d_logits, w, out=d_x[part])
            d_w += d_logits.T @ (x[part] if room == 1.0 else x[part] * room)
        ctx.is_fresh = True
        ctx.save_for_backward(
            d_x.to(hidden.dtype),
            d_w.to(weight.dtype),
            None if bias is None or d_bias is None else d_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        assert ctx.is_fresh, "the gradients were scaled in place by an earlier backward pass"
        ctx.is_fresh = False
        d_hidden, d_weight, d_bias = (
            None if saved is None else saved.mul_(share)
            for saved, share in zip(ctx.saved_tensors, (grads[0], grads[0] / ctx.room, grads[0]), strict=True)
        )
        return d_hidden, d_weight, None, d_bias, None


def cross_entropy(
    logits: Tensor, targets: Tensor, tp: Axis, *, vocab_size: int, z_loss: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Each row's loss [N] and the gradient of their sum [N, V/n], from this rank's logits [N, V/n].

    Two all-reduces: of the largest logit, then of the sum of exponentials together with the target's logit.
    """
    x = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    rows = logits.shape[1]
    held = max(0, min(rows, vocab_size - tp.rank * rows))
    if held < rows:
        x = x.clone()
        x[:, held:] = -torch.inf  # padding
    largest = x.amax(-1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=tp.group)
    here, row = _own(targets, rows=rows, tp=tp)
    target = torch.where(here, x.gather(1, row[:, None]).squeeze(1), 0.0)
    sums = torch.stack(((x - largest[:, None]).exp().sum(-1), target))  # [2, N]
    dist.all_reduce(sums, group=tp.group)
    lse = largest + sums[0].log()
    losses = lse - sums[1] + z_loss * lse.square()
    grad = (x - lse[:, None]).exp() * (1.0 + 2.0 * z_loss * lse[:, None])
    grad.scatter_add_(1, row[:, None], -here[:, None].type_as(grad))
    if softcap is not None:
        slope = 1.0 - (x / softcap).square()  # of tanh
        grad = torch.where(torch.isinf(x), 0.0, grad * slope)
    return losses, grad


def _own(tokens: Tensor, *, rows: int, tp: Axis) -> tuple[Tensor, Tensor]:
    """Whether each token's row is on this rank, and which row of this rank it is (0 where it is not)."""
    row = tokens - tp.rank * rows
    here = (row >= 0) & (row < rows)
    return here, torch.where(here, row, 0)
