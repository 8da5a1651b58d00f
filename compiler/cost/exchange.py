"""What a layer exchanges beside weights: tokens with the ranks that have their experts, keys and values along a cut sequence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .stored import WIDE

if TYPE_CHECKING:
    from ..ir.ops import Op
    from ..planner.layout import Layout, Recompute


@dataclass(frozen=True)
class Exchange:
    """Collectives of one layer and micro-batch."""

    axis: str
    kind: str
    num_bytes: int
    times: int


@dataclass(frozen=True)
class Batch:
    """A micro-batch as a rank has it."""

    sequences: int
    tokens: int
    """Of each sequence, on one rank of cp."""
    values: int
    """Bytes of an activation."""


def exchanges(ops: tuple[Op, ...], layout: Layout, batch: Batch, *, recompute: Recompute) -> Iterator[Exchange]:
    """Of a layer that computes again what `recompute` says, and with it what it exchanged for it."""
    if layout.ep > 1 or layout.cp > 1:
        yield from _of_experts(ops, layout, batch, passes=2 if recompute == "full" else 1)
    if layout.cp > 1:
        yield from _of_attention(ops, layout, batch, passes=1 if recompute == "none" else 2)


def _of_experts(ops: tuple[Op, ...], layout: Layout, batch: Batch, *, passes: int) -> Iterator[Exchange]:
    """Counts, rows to the experts and back; rows also in the backward pass. Every rank of tp sends all of its tokens."""
    dispatch = next((op for op in ops if op.kind == "dispatch"), None)
    if dispatch is None:
        return
    route = next(op for op in ops if op.kind == "route")
    experts, copies, tokens = route.sizes["E"], route.sizes["X"], batch.sequences * batch.tokens
    rows = tokens * copies
    factor = route.attrs.get("capacity_factor")
    if factor is not None:  # room for as many, used or not
        rows = experts * math.ceil(factor * rows / experts)
    if layout.ep > 1:
        yield Exchange("ep", "all_to_all", experts * INT32, passes)
        yield Exchange("ep", "all_to_all", rows * dispatch.sizes["D"] * batch.values, 2 * passes + 2)
    if layout.cp > 1 and route.attrs.get("aux_loss"):
        yield Exchange("cp", "all_reduce", experts * WIDE, passes)  # visits of the whole sequence


INT32 = 4


def _of_attention(ops: tuple[Op, ...], layout: Layout, batch: Batch, *, passes: int) -> Iterator[Exchange]:
    """Ring: keys and values go round, forward and backward, and the gradients of them in fp32. Ulysses: queries, keys and
    values in one swap, the result in another, and so back."""
    attention = next((op for op in ops if op.kind in ("attention", "eager_attention")), None)
    if attention is None:
        return
    tokens, sizes = batch.sequences * batch.tokens, attention.sizes
    of_key, of_value = sizes["C"], sizes.get("U", sizes["C"])  # numbers of a head
    heads, keys = sizes["H"] // layout.tp, max(1, sizes.get("K", sizes["H"]) // layout.tp)
    if layout.cp_kind == "ulysses":
        copies = layout.cp // math.gcd(keys, layout.cp)
        swapped = heads * of_key + keys * copies * (of_key + of_value)
        yield Exchange("cp", "all_to_all", swapped * tokens * batch.values, passes + 1)
        yield Exchange("cp", "all_to_all", heads * of_value * tokens * batch.values, passes + 1)
        return
    passed_on = keys * (of_key + of_value) * tokens
    for kind in ("recv", "send"):
        yield Exchange("cp", kind, passed_on * batch.values, (passes + 1) * (layout.cp - 1))
        yield Exchange("cp", kind, passed_on * WIDE, layout.cp - 1)
