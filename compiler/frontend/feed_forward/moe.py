"""A mixture of experts: route, send each token to its experts, gather; shared experts beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.builder import WEIGHT
from ...ir.ops import (
    ACTIVATION,
    ADD,
    COMBINE,
    DISPATCH,
    EXPERT_LINEAR,
    GATED_ACTIVATION,
    ROUTE,
    SIGMOID_GATE,
    Param,
)
from ..parts import BIAS, add_linear
from .mlp import add_mlp

if TYPE_CHECKING:
    from ....spec.feed_forward import Moe
    from ....spec.model import Model
    from ...ir.builder import Builder


def add_feed_forward(builder: Builder, model: Model, x: str) -> str:
    """Normed residual [B, T, D] -> [B, T, D]."""
    moe = model.moe
    assert moe is not None
    weights = _add_router(builder, moe, x)
    routed = builder.add(DISPATCH, "mlp.dispatch", x, weights)
    sizes = {"F": moe.intermediate_size or model.intermediate_size}
    hidden = _add_hidden(builder, model, moe, routed, sizes=sizes)
    hidden = _add_expert_linear(builder, "mlp.experts.down", hidden, moe=moe, read="F", written="D", sizes=sizes)
    out = builder.add(COMBINE, "mlp.combine", hidden, weights)
    return _add_shared(builder, model, moe, x, out)


def _add_router(builder: Builder, moe: Moe, x: str) -> str:
    """The X experts of each token, with their weights [B, T, X]."""
    router = moe.router
    logits = add_linear(builder, "mlp.router", x, dims=("B T D", "D", "E"), bias=router.bias)
    balance = (Param("balance_bias", is_trained=False),) if router.balance == "bias" else ()
    return builder.add(
        ROUTE,
        "mlp.route",
        logits,
        line=f"B T E!{', E' if balance else ''} -> B T X",
        params=balance,
        score=router.score,
        normalize=router.normalize or None,
        scale=router.scale if router.scale != 1.0 else None,
        groups=router.groups if router.groups > 1 else None,
        topk_groups=router.topk_groups if router.groups > 1 else None,
        aux_loss=router.aux_loss_weight if router.balance == "aux_loss" else None,
        z_loss=router.z_loss_weight or None,
        capacity_factor=moe.capacity_factor,
    )


def _add_hidden(builder: Builder, model: Model, moe: Moe, routed: str, *, sizes: dict[str, int]) -> str:
    function, line = model.mlp.activation, "B T X F, B T X F -> B T X F"
    up = _add_expert_linear(builder, "mlp.experts.up", routed, moe=moe, read="D", written="F", sizes=sizes)
    if not model.mlp.is_gated:
        return builder.add(ACTIVATION, "mlp.experts.act", up, line="B T X F -> B T X F", sizes=sizes, function=function)
    gate = _add_expert_linear(builder, "mlp.experts.gate", routed, moe=moe, read="D", written="F", sizes=sizes)
    return builder.add(GATED_ACTIVATION, "mlp.experts.act", gate, up, line=line, sizes=sizes, function=function)


def _add_expert_linear(
    builder: Builder, name: str, x: str, *, moe: Moe, read: str, written: str, sizes: dict[str, int]
) -> str:
    bias = f", E {written}" if moe.bias else ""
    line = f"B T X {read}, E {read} {written}{bias} -> B T X {written}"
    params = (*WEIGHT, BIAS) if moe.bias else WEIGHT
    return builder.add(EXPERT_LINEAR, name, x, line=line, params=params, sizes=sizes)


def _add_shared(builder: Builder, model: Model, moe: Moe, x: str, out: str) -> str:
    """Experts that every token visits: one MLP as wide as all of them."""
    expert_width = moe.intermediate_size or model.intermediate_size
    width = moe.shared_intermediate_size or moe.shared_experts * expert_width
    if moe.shared_experts == 0 and moe.shared_intermediate_size is None:
        return out
    shared = add_mlp(builder, model, x, prefix="mlp.shared", width=width)
    if moe.shared_gate:
        gate = add_linear(builder, "mlp.shared_gate", x, dims=("B T D", "D", "O"))
        shared = builder.add(SIGMOID_GATE, "mlp.shared.gated", shared, gate)
    return builder.add(ADD, "mlp.sum", out, shared)
