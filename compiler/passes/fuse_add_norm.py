"""The residual sum and the norm after it in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.ops import ADD_RMS_NORM, STREAM_ADD, make_op
from ..ir.rewriter import Rewriter

if TYPE_CHECKING:
    from ..ir.graph import Graph


def fuse_add_norm(graph: Graph) -> Graph:
    """add, rms_norm  become  stream_add, add_rms_norm.

    Applies to all norms of the residual stream, for programs that have the kernel (compiler/kernels/add_rms_norm.py). The
    kernel of a norm also writes the sum, which is therefore free; of the sum before the first norm of a block the block
    before takes care. It keeps normed numbers in place of the wider stream.
    """
    rewriter = Rewriter(graph)
    for norm in graph.ops("rms_norm"):
        if norm.line.output.dims != ("B", "T", "D"):
            continue
        fused = make_op(
            ADD_RMS_NORM,
            norm.name,
            *norm.inputs,
            line=str(norm.line),
            sizes=norm.sizes,
            params=norm.params,
            block=norm.block,
            **norm.attrs,
        )
        rewriter.replace(norm, fused)
    for add in graph.ops("add"):
        if add.name in ("attn_add", "mlp_add"):
            rewriter.replace(add, make_op(STREAM_ADD, add.name, *add.inputs, sizes=add.sizes, block=add.block))
    return rewriter.finish("fuse_add_norm")
