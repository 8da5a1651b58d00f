"""Linear layers of a mixture of experts on Ascend: products of all experts in one op, which reads on the device how many rows each has."""

from __future__ import annotations

import torch
from torch import Tensor

_ONE_OUTPUT = 3
_ROWS, _SUMMED = 0, 2
"""What is cut into groups: rows of the left factor, or what is summed."""


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x [N, D] through weight [E, F, D], rows up to ends[0] through the first matrix, up to ends[1] through the next …: [N, F]."""
    if not len(x):
        return x.new_empty(0, weight.shape[1])
    return _product(x, weight.mT, ends, cuts=_ROWS)


def grouped_outer(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """For each expert the sum of y x^T over its rows: y [N, F], x [N, D] -> [E, F, D]."""
    if not len(x):
        return x.new_zeros(len(ends), y.shape[1], x.shape[1])
    return _product(y.mT, x, ends, cuts=_SUMMED)


def _product(left: Tensor, right: Tensor, ends: Tensor, *, cuts: int) -> Tensor:
    (found,) = torch.ops.npu.npu_grouped_matmul(
        [left], [right], group_list=ends.long(), split_item=_ONE_OUTPUT, group_type=cuts, group_list_type=0
    )
    return found
