"""Linear layers of a mixture of experts: one call for all experts, over tokens that are sorted by expert.

`grouped_linear` is an operator of its own, so that it has a gradient, works on fake tensors, counts its FLOPs and follows
autocast wherever PyTorch's grouped_mm does not: in float64, on a CPU in bf16, with rows of an odd length. On Ascend it is torch-npu's op.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..ascend import grouped as ascend
from ..reference import experts as reference

_ALIGNED_BYTES = 16
"""grouped_mm takes rows that are a multiple of this."""


@torch.library.custom_op("llmc::grouped_linear", mutates_args=())
def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x [N, D] through weight [E, F, D]: rows up to ends[0] through the first matrix, up to ends[1] through the next …

    `ends` [E] is int32. Gives [N, F]; rows behind the last end are nobody's, and what they give means nothing.
    """
    if _is_on_npu(x):
        return ascend.grouped_linear(x, weight, ends)
    if _has_grouped_mm(x, weight):
        return F.grouped_mm(x, weight.mT, offs=ends)
    counts = _counts(ends)
    y = reference.grouped_linear(x[: sum(counts)], weight, counts)
    return y if len(y) == len(x) else F.pad(y, (0, 0, 0, len(x) - len(y)))


@torch.library.custom_op("llmc::grouped_outer", mutates_args=())
def grouped_outer(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """The gradient of the weight: for each expert the sum of y x^T over its rows. y [N, F], x [N, D] -> [E, F, D]."""
    if _is_on_npu(x):
        return ascend.grouped_outer(y, x, ends)
    if _has_grouped_mm(y, x):
        return F.grouped_mm(y.mT, x, offs=ends)
    return reference.grouped_outer(y, x, _counts(ends))


@grouped_linear.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@grouped_outer.register_fake
def _(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return y.new_empty(ends.shape[0], y.shape[1], x.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, ends = ctx.saved_tensors
    grad = grad.contiguous()
    to_x = grouped_linear(grad, weight.mT, ends) if ctx.needs_input_grad[0] else None
    to_weight = grouped_outer(grad, x, ends) if ctx.needs_input_grad[1] else None
    return to_x, to_weight, None


grouped_linear.register_autograd(_backward, setup_context=_keep)


@torch.library.impl("llmc::grouped_linear", ("AutocastCPU", "AutocastCUDA", "AutocastPrivateUse1"))
def _in_lower_format(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Under autocast: as a product of PyTorch's own, in its format."""
    dtype = torch.get_autocast_dtype(x.device.type)
    with torch.autocast(x.device.type, enabled=False):
        return grouped_linear(x.to(dtype), weight.to(dtype), ends)


@register_flop_formula(torch.ops.llmc.grouped_linear)
def _flops_of_linear(x: Sequence[int], weight: Sequence[int], ends: Sequence[int], **_: Any) -> int:
    return 2 * x[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.llmc.grouped_outer)
def _flops_of_outer(y: Sequence[int], x: Sequence[int], ends: Sequence[int], **_: Any) -> int:
    return 2 * y[0] * y[1] * x[1]


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear in fp32, whatever the formats of x [N, D] and weight [E, D]. Keeps x as it came: half the memory of a wide copy."""
    y = _WideLinear.apply(x, weight, bias)
    assert isinstance(y, Tensor)
    return y


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        grad = grads[0]  # [N, E]
        to_bias = None if ctx.bias_dtype is None else grad.sum(0).to(ctx.bias_dtype)
        return (grad @ weight.float()).to(x.dtype), (grad.T @ x.float()).to(weight.dtype), to_bias


def put_back(y: Tensor, order: Tensor) -> Tensor:
    """Row i of y [N, D] becomes row order[i], in an order of all N. Keeps the order alone for the gradient: index_copy keeps y."""
    back = _PutBack.apply(y, order)
    assert isinstance(back, Tensor)
    return back


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return torch.empty_like(y).index_copy_(0, order, y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (order,) = ctx.saved_tensors
        return grads[0].index_select(0, order), None


def _is_on_npu(x: Tensor) -> bool:
    return x.device.type == "npu"


def _has_grouped_mm(*operands: Tensor) -> bool:
    """On GPUs in bf16, with aligned rows. On a CPU it is a loop over experts too."""
    return all(
        each.is_cuda
        and each.dtype == torch.bfloat16
        and max(each.stride(-1), each.stride(-2)) * each.itemsize % _ALIGNED_BYTES == 0
        for each in operands
    )


def _counts(ends: Tensor) -> list[int]:
    bounds = [0, *ends.tolist()]
    return [end - start for start, end in pairwise(bounds)]


def of_first_pass(loss: Tensor) -> Tensor:
    """What a router lost. Where its layer is computed again, in a backward pass, the number alone: nobody asks for its gradient,
    and it would hold all that it was made of until the next step."""
    is_again = torch._C._current_graph_task_id() != -1
    return loss.detach() if is_again else loss
