"""The loss straight from the last hidden state, without all logits in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.ops import LINEAR_CROSS_ENTROPY, make_op
from ..ir.rewriter import Rewriter

if TYPE_CHECKING:
    from ..ir.graph import Graph


def fuse_linear_cross_entropy(graph: Graph) -> Graph:
    """head = linear(x) [, softcap], cross_entropy  become  linear_cross_entropy(x, targets).

    Applies when the loss is the only reader of the logits. Tokens pass through in chunks, so that of the logits [B T V]
    and their gradient only a chunk's share exists at a time.
    """
    rewriter = Rewriter(graph)
    for loss in graph.ops("cross_entropy"):
        logits = graph[loss.inputs[0]]
        cap = logits if logits.kind == "softcap" else None
        head = graph[cap.inputs[0]] if cap else logits
        if head.kind != "linear" or graph.only_user(head) is None or graph.only_user(logits) is None:
            continue
        bias = ", V" if len(head.params) == 2 else ""
        fused = make_op(
            LINEAR_CROSS_ENTROPY,
            "head",
            head.inputs[0],
            loss.inputs[1],
            line=f"B T D, B T, D V!{bias} -> B T",
            sizes=head.sizes,
            params=head.params,
            softcap=cap.attrs["cap"] if cap else None,
            **loss.attrs,
        )
        rewriter.erase(head)
        if cap is not None:
            rewriter.erase(cap)
        rewriter.replace(loss, fused)
    return rewriter.finish("fuse_linear_cross_entropy")
