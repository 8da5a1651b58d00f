"""Output projection and cross-entropy, piece by piece, so that only a piece of the logits exists at a time.

The gradient is computed along with the loss. Every device has a piece of its own tokens, and sums up the gradient of the weight for
these; the sum over devices comes once, after the last piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    pieces: int = 1,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """The loss summed over tokens, as runtimes/reference/loss.py has it: hidden [B, T, D], weight [V, D], targets [B, T].

    `spread` is how logits [B, T, V] are cut. `pieces` divides the tokens that a device has of a sequence.
    """
    loss = _Loss(spread, pieces, z_loss=z_loss, softcap=softcap)
    dtype = torch.get_autocast_dtype("xla") if torch.is_autocast_enabled("xla") else hidden.dtype
    whole = device.annotated(_another(weight, dtype), (spread[2], None))  # gathered once, for all pieces
    hidden = device.annotated(hidden.to(dtype), (*spread[:2], None))
    bias = None if bias is None else device.annotated(_another(bias, dtype), (spread[2],))
    with torch.autocast("xla", enabled=False):
        if torch.is_grad_enabled():
            return _WithGradient.apply(hidden, whole, targets, bias, loss)  # type: ignore[return-value]
        return loss.of(hidden, whole, targets, bias)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, loss: _Loss) -> Tensor:
        total, *grads = loss.with_gradients(hidden, weight, targets, bias)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        scale = grads[0]
        hidden, weight, *bias = (each * scale.to(each.dtype) for each in ctx.saved_tensors)
        return hidden, weight, None, bias[0] if bias else None, None


class _Loss:
    """The loss of tokens, whose dims are cut in two: [S, b, C, t, ...], S and C the devices that have parts of B and T."""

    def __init__(self, spread: Spread, pieces: int, *, z_loss: float, softcap: float | None) -> None:
        self.data, self.context, self.vocabulary = spread
        self.pieces, self.z_loss, self.softcap = pieces, z_loss, softcap
        self.parts = (device.extent(self.data), device.extent(self.context))

    def of(self, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        for x, wanted in self._cut(hidden, targets):
            (x,) = _after([x], total)
            total = total + self._losses(self._logits(x, weight, bias), wanted)[0].sum()
        return total

    def with_gradients(self, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> list[Tensor]:
        """The sum of all losses, and its gradients by hidden [B, T, D], by weight [V, D] and by bias [V] if there is one."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total, by_weight = torch.zeros((), device=hidden.device, dtype=wide), None
        by_bias = torch.zeros(weight.shape[0], device=hidden.device, dtype=wide)
        by_hidden = []
        for x, wanted in self._cut(hidden, targets):
            if by_weight is not None:  # one piece after the other: else the compiler may have all logits at a time
                x, by_weight = _after([x, by_weight], total)
            logits = self._logits(x, weight, bias)
            losses, lse, capped = self._losses(logits, wanted)
            total = total + losses.sum()
            grad = self._gradient(capped, lse, wanted).to(hidden.dtype)  # [S, b, C, t, V]
            own = torch.einsum("sbctv,sbctd->scvd", grad, x)  # of each device's own tokens
            own = device.annotated(own, (self.data, self.context, self.vocabulary, None))
            by_weight = own if self.pieces == 1 else own.to(wide) if by_weight is None else by_weight + own
            by_bias = by_bias + grad.sum((0, 1, 2, 3), dtype=wide) if bias is not None else by_bias
            by_hidden.append(torch.einsum("sbctv,vd->sbctd", grad, weight))
        assert by_weight is not None
        found = [total, self._put_together(by_hidden, hidden), by_weight.to(hidden.dtype).sum((0, 1))]
        return [*found, by_bias.to(bias.dtype)] if bias is not None else found

    def _cut(self, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        (samples, contexts), (batch, tokens) = self.parts, targets.shape
        shape = (samples, batch // samples, contexts, self.pieces, tokens // contexts // self.pieces)
        spread = (self.data, None, self.context, None)
        hidden, targets = hidden.reshape(*shape, hidden.shape[-1]), targets.reshape(*shape)
        for piece in range(self.pieces):
            x = device.annotated(hidden[:, :, :, piece], (*spread, None))
            yield x, targets[:, :, :, piece]

    def _put_together(self, parts: list[Tensor], hidden: Tensor) -> Tensor:
        whole = torch.stack(parts, dim=3).reshape(hidden.shape)
        return device.annotated(whole, (self.data, self.context, None))

    def _logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return device.annotated(F.linear(x, weight, bias), (self.data, None, self.context, None, self.vocabulary))

    def _losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(losses, log-sum-exp, capped logits): the target's logit is picked with a comparison, each device from its own part of V."""
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.softcap is not None:
            x = self.softcap * torch.tanh(x / self.softcap)
        lse = x.logsumexp(-1)
        losses = lse - torch.where(_is_target(x, targets), x, 0.0).sum(-1)
        return (losses + self.z_loss * lse.square() if self.z_loss else losses), lse, x

    def _gradient(self, x: Tensor, lse: Tensor, targets: Tensor) -> Tensor:
        grad = (x - lse[..., None]).exp()
        if self.z_loss:
            grad = grad * (1.0 + 2.0 * self.z_loss * lse[..., None])
        grad = grad - _is_target(x, targets).to(x.dtype)
        return grad if self.softcap is None else grad * (1.0 - (x / self.softcap).square())  # the slope of tanh


def _another(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in this format, and not itself: it is annotated already."""
    return weight.to(dtype) if weight.dtype != dtype else weight * 1.0


def _is_target(x: Tensor, targets: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device) == targets[..., None]


def _after(tensors: list[Tensor], earlier: Tensor) -> list[Tensor]:
    """The tensors, of which nothing is computed before `earlier` is."""
    copies = [each.clone() for each in tensors]
    device.barrier([*copies, earlier.clone()])
    return copies
