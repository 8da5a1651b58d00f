"""Tensor parallelism: where activations cross from what all ranks hold to what is cut over them, and back (Shoeybi 2019).

Each function moves data one way in the forward pass and the other way in the backward pass:

    forward                 backward
    gathered_linear         both                a cut layer, with sequence parallelism
    all_gather              reduce-scatter      into the head, with sequence parallelism
    reduce_scatter          all-gather          out of a cut layer, with sequence parallelism
    all_reduce_gradient     all-reduce          into a cut layer; the forward pass moves nothing
    all_reduce              nothing             out of a cut layer

With sequence parallelism a rank holds [B, T/n, D] between the cut layers: a run of the tokens (Korthikanti 2022).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..products import Products, products_of
from .mesh import Axis
from .wanted import WANTED


def gathered_linear(x: Tensor, layer: nn.Linear, tp: Axis) -> Tensor:
    """The product of a cut layer with the tokens of all ranks: [B, T/n, D] of each rank -> [B, T, F].

    Only the rank's own run of the tokens is kept for the backward pass, which gathers the others again while it
    multiplies (Korthikanti 2022).
    """
    y = _GatheredLinear.apply(_cast(x), layer.weight, layer.bias, tp, products_of(layer))
    assert isinstance(y, Tensor)
    return y


def all_gather(x: Tensor, tp: Axis) -> Tensor:
    """[B, T/n, D] of each rank -> [B, T, D]."""
    return _apply(_AllGather, _cast(x), tp)


def reduce_scatter(x: Tensor, tp: Axis) -> Tensor:
    """Summands [B, T, D] of each rank -> [B, T/n, D]: a run of the tokens' sums."""
    return _apply(_ReduceScatter, x, tp)


def all_reduce_gradient(x: Tensor, tp: Axis) -> Tensor:
    """x as it is; its gradient is the sum of the ranks' gradients."""
    return _apply(_AllReduceGradient, _cast(x), tp)


def all_reduce(x: Tensor, tp: Axis) -> Tensor:
    """Summands of each rank -> their sum, on every rank."""
    return _apply(_AllReduce, x, tp)


def own_tokens(x: Tensor, tp: Axis) -> Tensor:
    """The run of tokens that sequence parallelism leaves this rank: [..., T] -> [..., T/n]."""
    return x.chunk(tp.size, dim=-1)[tp.rank]


def _cast(x: Tensor) -> Tensor:
    """Under autocast, what a product is about to take in the lower format travels in it already."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _apply(function: type[torch.autograd.Function], x: Tensor, tp: Axis) -> Tensor:
    y = function.apply(x, tp)
    assert isinstance(y, Tensor)
    return y


def gather_tokens(x: Tensor, tp: Axis) -> Tensor:
    """The collective alone: [B, T/n, D] -> [B, T, D]."""
    return _joined(*_gathering(x, tp), tp)


def _gathering(x: Tensor, tp: Axis) -> tuple[Tensor, dist.Work]:
    """The ranks' runs [n*B, T/n, D] as they come in, and what to wait for."""
    runs = x.new_empty((tp.size * x.shape[0], *x.shape[1:]))
    work = dist.all_gather_single(runs, x.contiguous(), group=tp.group, async_op=True)
    assert work is not None
    return runs, work


def _joined(runs: Tensor, work: dist.Work, tp: Axis) -> Tensor:
    work.wait()
    return runs.unflatten(0, (tp.size, -1)).movedim(0, 1).flatten(1, 2)  # [B, T, D]


def scatter_tokens(x: Tensor, tp: Axis) -> Tensor:
    """The collective alone: summands [B, T, D] -> [B, T/n, D]."""
    runs = x.unflatten(1, (tp.size, -1)).movedim(1, 0).flatten(0, 1).contiguous()  # [n*B, T/n, D]
    own = x.new_empty((x.shape[0], runs.shape[1], x.shape[2]))
    dist.reduce_scatter_single(own, runs, group=tp.group)
    return own


class _GatheredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tp: Axis, products: Products) -> Tensor:
        ctx.tp, ctx.products = tp, products
        ctx.save_for_backward(x, weight, bias)
        return products.output(gather_tokens(x, tp), weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, bias = ctx.saved_tensors
        d_y = grads[0]  # [B, T, F]
        if not WANTED.weights:
            return scatter_tokens(ctx.products.to_input(d_y, weight.to(d_y.dtype)), ctx.tp), None, None, None, None
        runs, work = _gathering(x, ctx.tp)
        d_x = ctx.products.to_input(d_y, weight.to(d_y.dtype)) if WANTED.inputs else None  # meanwhile
        whole = _joined(runs, work, ctx.tp).flatten(0, 1)  # [B*T, D]
        del runs  # of which it may be a copy
        d_x = None if d_x is None else scatter_tokens(d_x, ctx.tp)
        d_weight = ctx.products.to_weight(d_y, whole).to(weight.dtype)
        d_bias = None if bias is None else d_y.flatten(0, 1).sum(0).to(bias.dtype)
        return d_x, d_weight, d_bias, None, None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: Axis) -> Tensor:
        ctx.tp = tp
        return gather_tokens(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return scatter_tokens(grads[0], ctx.tp), None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: Axis) -> Tensor:
        ctx.tp = tp
        return scatter_tokens(x, tp)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return gather_tokens(grads[0], ctx.tp), None


class _AllReduceGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: Axis) -> Tensor:
        ctx.tp = tp
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.tp.group)
        return total, None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: Axis) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=tp.group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None
