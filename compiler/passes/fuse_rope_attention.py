"""Attention straight from the fused projection of queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.ops import ROPE_ATTENTION, make_op
from ..ir.rewriter import Rewriter

if TYPE_CHECKING:
    from ..ir.graph import Graph


def fuse_rope_attention(graph: Graph) -> Graph:
    """split_heads x 3 [, rope x 2], attention (or eager_attention)  become  rope_attention.

    Applies where nothing else stands between the projection and the scores, for programs that have the kernel
    (compiler/kernels/causal_attention.py). Rotated queries and keys are never written: the backward pass turns them again.
    """
    rewriter = Rewriter(graph)
    for attention in (*graph.ops("attention"), *graph.ops("eager_attention")):
        if attention.params:  # sinks, which the kernel does not know
            continue
        between = [graph[source] for source in attention.inputs]
        between += [graph[op.inputs[0]] for op in between if op.kind == "rope"]
        views = [op for op in between if op.kind == "split_heads"]
        sources = {op.inputs[0] for op in views}
        if len(views) != 3 or len(sources) != 1 or any(op.kind not in ("rope", "split_heads") for op in between):
            continue
        projection = graph[sources.pop()]
        rotation = next((op.attrs for op in between if op.kind == "rope"), {})
        fused = make_op(
            ROPE_ATTENTION,
            attention.name,
            projection.id,
            sizes={**projection.sizes, **attention.sizes},
            block=attention.block,
            **{**attention.attrs, **rotation},
        )
        rewriter.replace(attention, fused)
        for op in between:
            rewriter.erase(op)
    return rewriter.finish("fuse_rope_attention")
