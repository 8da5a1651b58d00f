"""One matrix product for queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.ops import FUSED_QKV, SPLIT_HEADS, Op, make_op
from ..ir.rewriter import Rewriter

if TYPE_CHECKING:
    from ..ir.graph import Graph


def fuse_qkv(graph: Graph) -> Graph:
    """attn.q, attn.k, attn.v = linear(x) x 3  become  attn.qkv = fused_qkv(x)  and three views of it.

    Applies when all three read the same value and project to whole heads. Reads x once in place of three times, and one
    wide product uses matrix units better than three narrow ones.
    """
    rewriter = Rewriter(graph)
    for block in graph.blocks:
        projections = [graph.by_id.get(f"{block.name}/attn.{part}") for part in "qkv"]
        if not _can_fuse(projections):
            continue
        fused = _fused([op for op in projections if op is not None])
        rewriter.insert_before(_first(graph, projections), fused)
        for part, op in zip("qkv", projections, strict=True):
            assert op is not None
            line = f"B T W -> {op.line.output}"
            sizes = {**fused.sizes, **op.sizes}
            view = make_op(SPLIT_HEADS, f"attn.qkv.{part}", fused.id, line=line, sizes=sizes, block=op.block, part=part)
            rewriter.replace(op, view)
    return rewriter.finish("fuse_qkv")


def _can_fuse(projections: list[Op | None]) -> bool:
    ops = [op for op in projections if op is not None and op.kind == "linear"]
    return len(ops) == 3 and len({op.inputs for op in ops}) == 1 and len({op.params for op in ops}) == 1


def _first(graph: Graph, projections: list[Op | None]) -> Op:
    return min((op for op in projections if op is not None), key=graph.all_ops.index)


def _fused(projections: list[Op]) -> Op:
    """Rows of the weight: queries, then keys, then values."""
    first = projections[0]
    width = sum(_width(op) for op in projections)
    bias = ", W" if len(first.params) == 2 else ""
    sizes = {"D": first.sizes["D"], "W": width}
    line = f"B T D, D W{bias} -> B T W"
    queries, keys = (op.sizes[op.line.output.dims[-2]] for op in projections[:2])
    return make_op(
        FUSED_QKV,
        "attn.qkv",
        *first.inputs,
        line=line,
        sizes=sizes,
        params=first.params,
        block=first.block,
        heads=queries,
        key_heads=keys,  # ranks take whole ones (cost/sharding.py)
    )


def _width(op: Op) -> int:
    heads, size = op.line.output.dims[-2:]
    return op.sizes[heads] * op.sizes[size]
