"""One matrix product for the gate and the up projection of a gated feed-forward block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.ops import EXPERT_GATE_UP, FUSED_GATED_ACTIVATION, GATE_UP, Op, make_op
from ..ir.rewriter import Rewriter

if TYPE_CHECKING:
    from ..ir.graph import Graph


def fuse_gate_up(graph: Graph) -> Graph:
    """gate = linear(x), up = linear(x), gated_activation(gate, up)  become  gate_up(x), fused_gated_activation.

    Applies to dense blocks and to experts, when nothing else reads gate or up. Reads x once, and the activation is one
    kernel that keeps its inputs alone for the backward pass: act(gate) is computed again there, which is cheap.
    """
    rewriter = Rewriter(graph)
    for activation in graph.ops("gated_activation"):
        gate, up = (graph[source] for source in activation.inputs)
        if not _can_fuse(graph, gate, up):
            continue
        fused = _fused(gate, up)
        rewriter.replace(gate, fused)
        rewriter.erase(up, instead=fused)
        rewriter.replace(activation, _activation(activation, fused))
    return rewriter.finish("fuse_gate_up")


def _can_fuse(graph: Graph, gate: Op, up: Op) -> bool:
    if gate.kind not in ("linear", "expert_linear") or gate.kind != up.kind:
        return False
    return gate.inputs == up.inputs and graph.only_user(gate) is not None and graph.only_user(up) is not None


def _fused(gate: Op, up: Op) -> Op:
    """Rows of the weight: gate, then up."""
    kind = GATE_UP if gate.kind == "linear" else EXPERT_GATE_UP
    expert = "" if gate.kind == "linear" else "E "
    bias = f", {expert}W" if len(gate.params) == 2 else ""
    line = kind.line.replace(" ->", f"{bias} ->")
    sizes = {**gate.sizes, "W": gate.sizes["F"] + up.sizes["F"]}
    name = gate.name.removesuffix("gate") + "gate_up"
    return make_op(kind, name, *gate.inputs, line=line, sizes=sizes, params=gate.params, block=gate.block)


def _activation(activation: Op, fused: Op) -> Op:
    line = f"{fused.line.output} -> {activation.line.output}"
    sizes = {**activation.sizes, **fused.sizes}
    attrs = dict(activation.attrs)
    return make_op(
        FUSED_GATED_ACTIVATION, activation.name, fused.id, line=line, sizes=sizes, block=fused.block, **attrs
    )
