"""Multi-head latent attention (DeepSeek-V2, 2024): keys and values from a narrow latent, which is what is cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.ops import ATTENTION, CONCAT_KEYS
from ..parts import add_linear, add_norm, add_rope

if TYPE_CHECKING:
    from ....spec.model import Model
    from ...ir.builder import Builder
    from ..layers import LayerClass


def add_attention(builder: Builder, model: Model, x: str, layer: LayerClass) -> str:
    """Normed residual [B, T, D] -> [B, T, D]. A query or key head is N dims without position and R rotated ones, C in all."""
    attention = model.attention
    assert attention.kind == "mla"
    bias, rotated, eps = attention.qkv_bias, attention.qk_rope_head_dim, attention.latent_norm_eps
    if attention.q_lora_rank is None:
        q = add_linear(builder, "attn.q", x, dims=("B T D", "D", "H C"))
    else:
        latent = add_linear(builder, "attn.q_down", x, dims=("B T D", "D", "Q"), bias=bias)
        latent = add_norm(builder, model, "attn.q_latent_norm", latent, dims="B T Q!", scale="Q", eps=eps)
        q = add_linear(builder, "attn.q_up", latent, dims=("B T Q", "Q", "H C"))
    q = add_rope(builder, model, "attn.q_rope", q, line="B T H C! -> B T H C", is_local=False, rotary_dim=rotated)

    latent = add_linear(builder, "attn.kv_down", x, dims=("B T D", "D", "L"), bias=bias)
    latent = add_norm(builder, model, "attn.kv_latent_norm", latent, dims="B T L!", scale="L", eps=eps)
    rope_key = add_linear(builder, "attn.rope_key", x, dims=("B T D", "D", "R"), bias=bias)
    rope_key = add_rope(
        builder, model, "attn.k_rope", rope_key, line="B T R! -> B T R", is_local=False, rotary_dim=rotated
    )
    key = add_linear(builder, "attn.k_up", latent, dims=("B T L", "L", "H N"))
    key = builder.add(CONCAT_KEYS, "attn.k", key, rope_key)
    value = add_linear(builder, "attn.v_up", latent, dims=("B T L", "L", "H U"))
    out = builder.add(
        ATTENTION,
        "attn",
        q,
        key,
        value,
        line="B T H C, B S H C, B S H U -> B T H U",
        scale=attention.scale,
        alibi=model.position.kind == "alibi" or None,
        cached="L, R",
    )
    return add_linear(builder, "attn.out", out, dims=("B T H U", "H U", "D"), bias=attention.out_bias)
