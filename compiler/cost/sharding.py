"""What one device holds and computes of an op: local sizes under a layout, read off the op's line.

Tensor parallelism splits heads (H, K), widths (F, W) and the vocabulary (V). An op without such a dim is computed on
every rank, or on a part of the tokens under sequence parallelism. Context parallelism splits query tokens T and leaves
key tokens S whole; expert parallelism splits E.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from ..ir.ops import Op

TENSOR_DIMS = ("H", "K", "F", "W", "V")


class Degrees(NamedTuple):
    """The degrees that change what an op is on one device."""

    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    ep: int = 1
    ring: bool = False
    """Whether keys and values go round the ranks of cp."""


def is_tensor_parallel(op: Op) -> bool:
    """Whether tp splits the op: it has a dim of heads, width or vocabulary beside its tokens."""
    if op.kind in ("embedding", "route"):
        return False
    return any(dim in TENSOR_DIMS for dim in op.line.dims)


def shard(op: Op, degrees: Degrees) -> Op:
    """The op with the sizes that one device sees. Sizes that a degree does not divide are rounded up."""
    sizes = dict(op.sizes)
    if is_tensor_parallel(op):
        sizes |= {dim: _share(sizes[dim], degrees.tp) for dim in TENSOR_DIMS if dim in sizes}
        if op.kind == "fused_qkv":  # a key head that ranks share is whole on each of them
            heads, keys = op.attrs["heads"], op.attrs["key_heads"]
            size = op.sizes["W"] // (heads + 2 * keys)
            sizes["W"] = (_share(heads, degrees.tp) + 2 * _share(keys, degrees.tp)) * size
    if "E" in sizes and op.group == "matmul" and "X" in sizes:
        sizes["E"] = _share(sizes["E"], degrees.ep)
    return replace(op, sizes=MappingProxyType(sizes))


def local_tokens(op: Op, degrees: Degrees, *, tokens: int) -> int:
    """Query tokens of a sequence that one device handles in this op."""
    parts = degrees.cp
    if degrees.sequence_parallel and not is_tensor_parallel(op):
        parts *= degrees.tp
    return _share(tokens, parts)


def local_extent(op: Op, degrees: Degrees, *, batch: float, tokens: int) -> Mapping[str, float]:
    """The free dims of one device.

    Attention under context parallelism is balanced over its ranks (each takes early and late tokens), so a rank's share
    of a causal sequence is counted as that share of the batch.
    """
    if op.group == "attention":
        return {"B": batch / degrees.cp, "T": tokens, "S": tokens}
    return {"B": batch, "T": local_tokens(op, degrees, tokens=tokens), "S": tokens}


def _share(size: int, parts: int) -> int:
    return max(1, math.ceil(size / parts))
