"""Attention that no fused kernel computes is computed step by step, with its scores in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..ir.ops import EAGER_ATTENTION, Op, make_op
from ..ir.rewriter import Rewriter

if TYPE_CHECKING:
    from ..ir.graph import Graph


def choose_attention(graph: Graph) -> Graph:
    """attention  becomes  eager_attention  where scores are capped or a learned sink joins the softmax.

    The fused kernels of PyTorch know neither. The eager form keeps the scores [B H T S] for the backward pass.
    """
    return _make_eager(graph, lambda op: "softcap" in op.attrs or bool(op.params), name="choose_attention")


def unfuse_attention(graph: Graph) -> Graph:
    """attention  becomes  eager_attention  everywhere: programs that a spec assumes to have no fused kernel."""
    return _make_eager(graph, lambda _: True, name="unfuse_attention")


def _make_eager(graph: Graph, applies: Callable[[Op], bool], *, name: str) -> Graph:
    rewriter = Rewriter(graph)
    for op in graph.ops("attention"):
        if not applies(op):
            continue
        sizes, attrs = dict(op.sizes), dict(op.attrs)
        eager = make_op(
            EAGER_ATTENTION,
            op.name,
            *op.inputs,
            line=str(op.line),
            sizes=sizes,
            params=op.params,
            block=op.block,
            **attrs,
        )
        rewriter.replace(op, eager)
    return rewriter.finish(name)
