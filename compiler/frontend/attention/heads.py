"""Multi-head, multi-query and grouped-query attention: softmax over heads of equal size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....spec.attention import Rope
from ...ir.ops import ATTENTION, Param
from ..parts import add_linear, add_norm, add_rope

if TYPE_CHECKING:
    from ....spec.model import Model
    from ...ir.builder import Builder
    from ..layers import LayerClass


def add_attention(builder: Builder, model: Model, x: str, layer: LayerClass) -> str:
    """Normed residual [B, T, D] -> [B, T, D]."""
    attention = model.attention
    assert attention.kind != "mla"
    q = add_linear(builder, "attn.q", x, dims=("B T D", "D", "H C"), bias=attention.qkv_bias)
    k = add_linear(builder, "attn.k", x, dims=("B T D", "D", "K C"), bias=attention.qkv_bias)
    v = add_linear(builder, "attn.v", x, dims=("B T D", "D", "K C"), bias=attention.qkv_bias)
    if attention.qk_norm == "head":
        q = add_norm(builder, model, "attn.q_norm", q, dims="B T H C!", scale="C")
        k = add_norm(builder, model, "attn.k_norm", k, dims="B T K C!", scale="C")
    elif attention.qk_norm == "full":
        q = add_norm(builder, model, "attn.q_norm", q, dims="B T H! C!", scale="H C")
        k = add_norm(builder, model, "attn.k_norm", k, dims="B T K! C!", scale="K C")
    is_local = layer.window is not None
    rotary_dim = _rotary_dim(model)
    q = add_rope(builder, model, "attn.q_rope", q, line="B T H C! -> B T H C", is_local=is_local, rotary_dim=rotary_dim)
    k = add_rope(builder, model, "attn.k_rope", k, line="B T K C! -> B T K C", is_local=is_local, rotary_dim=rotary_dim)
    sinks = (Param("sinks"),) if attention.sinks else ()
    out = builder.add(
        ATTENTION,
        "attn",
        q,
        k,
        v,
        line=f"B T H C, B S K C, B S K C{', H' if sinks else ''} -> B T H C",
        params=sinks,
        window=layer.window,
        softcap=attention.softcap,
        scale=attention.scale,
        alibi=model.position.kind == "alibi" or None,
        cached="K C, K C",
    )
    return add_linear(builder, "attn.out", out, dims=("B T H C", "H C", "D"), bias=attention.out_bias)


def _rotary_dim(model: Model) -> int:
    position = model.position
    return (position.rotary_dim or model.head_dim) if isinstance(position, Rope) else 0
