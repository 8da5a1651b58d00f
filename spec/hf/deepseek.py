"""DeepSeek V2 and V3 (also R1 and Kimi K2): latent attention, many small experts and shared ones.

Multi-token-prediction modules (`num_nextn_predict_layers`) are not part of the model proper: transformers leaves them out
as well.
"""

from __future__ import annotations

from .fields import (
    REQUIRED,
    Always,
    Both,
    Fixed,
    HfType,
    Key,
    Piece,
    Reader,
    UnsupportedConfig,
    Values,
    get_path,
    set_path,
)
from .llama_like import GATED
from .parts import DIMENSIONS, PRE_NORM, rms_norm, tied
from .rope import rope


def _read_latent_heads(config: Reader, values: Values) -> None:
    """All heads have keys and values of their own; `head_dim` in these configs is the rotated part."""
    num_heads = config.take("num_attention_heads", default=REQUIRED)
    if config.take("num_key_value_heads", default=num_heads) != num_heads:
        raise UnsupportedConfig("num_key_value_heads", "latent attention has as many as num_attention_heads")
    values["num_heads"] = values["num_kv_heads"] = num_heads
    rotated = get_path(values, "attention.qk_rope_head_dim")
    if config.take("head_dim", default=rotated) != rotated:
        raise UnsupportedConfig("head_dim", "latent attention has qk_rope_head_dim here")
    whole = rotated + get_path(values, "attention.qk_nope_head_dim")
    if config.take("qk_head_dim", default=whole) != whole:
        raise UnsupportedConfig("qk_head_dim", "the sum of qk_nope_head_dim and qk_rope_head_dim is meant")


def _write_latent_heads(values: Values, config: Values) -> None:
    config["num_attention_heads"] = config["num_key_value_heads"] = values["num_heads"]


def _read_shared(config: Reader, values: Values) -> None:
    set_path(values, "moe.shared_experts", config.take("n_shared_experts", default=0))


def _write_shared(values: Values, config: Values) -> None:
    config["n_shared_experts"] = get_path(values, "moe.shared_experts") or None


_LATENT: tuple[Piece, ...] = (
    *DIMENSIONS,
    Always({"attention.kind": "mla"}),
    Key("q_lora_rank", "attention.q_lora_rank", default=None),
    Key("kv_lora_rank", "attention.kv_lora_rank"),
    Key("qk_nope_head_dim", "attention.qk_nope_head_dim"),
    Key("qk_rope_head_dim", "attention.qk_rope_head_dim"),
    Key("v_head_dim", "attention.v_head_dim"),
    Both(_read_latent_heads, _write_latent_heads),
    Key("attention_bias", ("attention.qkv_bias", "attention.out_bias"), default=False),
    tied(False),
    rope(interleaved=True, head_dim="attention.qk_rope_head_dim"),
    *rms_norm(),
    GATED,
    PRE_NORM,
    Key("n_routed_experts", "moe.num_experts"),
    Key("num_experts_per_tok", "moe.experts_per_token"),
    Key("moe_intermediate_size", "moe.intermediate_size"),
    Both(_read_shared, _write_shared),
    Key("first_k_dense_replace", "moe.first_dense_layers", default=0),
    Fixed("moe_layer_freq", (1,)),
    Key("routed_scaling_factor", "moe.router.scale", default=1.0),
)


def _read_groups(config: Reader, values: Values) -> None:
    """V2: `greedy` knows no groups, whatever n_group says."""
    method = config.take("topk_method", default="greedy")
    groups, chosen = config.take("n_group", default=1), config.take("topk_group", default=1)
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedConfig("topk_method", f"{method!r} is not a choice of DeepSeek V2")
    is_grouped = method == "group_limited_greedy"
    set_path(values, "moe.router.groups", groups if is_grouped else 1)
    set_path(values, "moe.router.topk_groups", chosen if is_grouped else 1)


def _write_groups(values: Values, config: Values) -> None:
    groups = get_path(values, "moe.router.groups") or 1
    config["topk_method"] = "greedy" if groups == 1 else "group_limited_greedy"
    config["n_group"], config["topk_group"] = groups, get_path(values, "moe.router.topk_groups")


DEEPSEEK_V2 = HfType(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    (
        *_LATENT,
        Both(_read_groups, _write_groups),
        Fixed("scoring_func", ("softmax",)),
        Fixed("norm_topk_prob", (False,)),
        Always(
            {"moe.router.score": "softmax", "moe.router.normalize": False, "moe.router.balance": "aux_loss"}
            | {"mlp.bias": False}
        ),
    ),
    neutral=frozenset({"ep_size", "mlp_bias"}),
)

DEEPSEEK_V3 = HfType(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    (
        *_LATENT,
        Key("n_group", "moe.router.groups", default=1),
        Key("topk_group", "moe.router.topk_groups", default=1),
        Fixed("topk_method", ("noaux_tc",)),
        Fixed("scoring_func", ("sigmoid",)),
        Key("norm_topk_prob", "moe.router.normalize", default=True),
        Fixed("rope_interleave", (True,)),
        Always({"moe.router.score": "sigmoid", "moe.router.balance": "bias", "mlp.bias": False}),
    ),
    reads_as=("kimi_k2",),
    neutral=frozenset({"ep_size", "num_nextn_predict_layers"}),
)
