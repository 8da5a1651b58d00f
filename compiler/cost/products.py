"""Which products of a layer a checkpoint computes again that keeps the others."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..ir.ops import Op


def second_products(ops: Iterable[Op]) -> dict[str, float]:
    """By op, the share of a layer's products that is every second one, counted as PyTorch runs them: q, k, v, out, gate, up, down.

    That is the policy of torchtitan's selective checkpoints. Nobody reads the last product of a layer in the backward pass.
    """
    ops = tuple(ops)
    products = [op for op in ops if op.group == "matmul"]
    found: dict[str, float] = {}
    number = 0
    for op in products:
        parts = _products_in_one(op, ops)
        numbers = range(number + 1, number + 1 + len(parts))
        number += len(parts)
        is_needed = op is not products[-1] or op.kind.startswith("expert")
        if is_needed:
            found[op.id] = sum(share for each, share in zip(numbers, parts, strict=True) if each % 2 == 0)
    return found


def _products_in_one(op: Op, ops: Iterable[Op]) -> list[float]:
    """Products that are fused into one, as shares of its width."""
    if op.kind == "gate_up":
        return [0.5, 0.5]
    if op.kind == "fused_qkv":
        widths = [
            math.prod(each.sizes[dim] for dim in each.line.output.dims[2:]) for each in ops if op.id in each.inputs
        ]
        return [width / sum(widths) for width in widths]
    return [1.0]
