"""Types with mixtures of experts over ordinary heads: Mixtral, Qwen 2/3 MoE, OLMoE, gpt-oss, MiniMax M2."""

from __future__ import annotations

from .fields import Always, Both, Fixed, HfType, Key, Reader, Values, get_path, set_path
from .llama_like import ATTENTION_BIAS, GATED, NO_BIAS
from .parts import (
    DIMENSIONS,
    PLAIN_WINDOW,
    PRE_NORM,
    alternating_window,
    expert_flags,
    heads,
    rms_norm,
    set_expert_layers,
    tied,
)
from .rope import rope, rotary_dim_key

_NUM_EXPERTS = Key(("num_local_experts", "num_experts"), "moe.num_experts")
_TOP_K = Key(("num_experts_per_tok", "experts_per_token"), "moe.experts_per_token")
_AUX_LOSS = Key("router_aux_loss_coef", "moe.router.aux_loss_weight", default=0.001)
_MIXTRAL_ROUTER = Always(
    {"moe.router.score": "softmax", "moe.router.normalize": True, "moe.router.balance": "aux_loss"}
)

MIXTRAL = HfType(
    "mixtral",
    "MixtralForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_default=8),
        tied(False),
        rope(theta=1e6),
        *rms_norm(default=1e-5),
        GATED,
        PRE_NORM,
        NO_BIAS,
        PLAIN_WINDOW,
        _NUM_EXPERTS,
        _TOP_K,
        _MIXTRAL_ROUTER,
        _AUX_LOSS,
        Fixed("router_jitter_noise", (0.0,)),
    ),
)


def _read_sparse_layers(config: Reader, values: Values) -> None:
    """Qwen: experts in each decoder_sparse_step-th layer that is not in mlp_only_layers."""
    step, dense = config.take("decoder_sparse_step", default=1), config.take("mlp_only_layers", default=[])
    flags = [layer not in dense and (layer + 1) % step == 0 for layer in range(values["num_layers"])]
    set_expert_layers(values, flags, key="mlp_only_layers")


def _write_sparse_layers(values: Values, config: Values) -> None:
    config["decoder_sparse_step"] = 1
    config["mlp_only_layers"] = [layer for layer, has_experts in enumerate(expert_flags(values)) if not has_experts]


_SPARSE_LAYERS = Both(_read_sparse_layers, _write_sparse_layers)
_QWEN_ROUTER = (
    Key("moe_intermediate_size", "moe.intermediate_size"),
    _SPARSE_LAYERS,
    Always({"moe.router.score": "softmax", "moe.router.balance": "aux_loss"}),
    Key("norm_topk_prob", "moe.router.normalize", default=False),
    _AUX_LOSS,
)

QWEN2_MOE = HfType(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        rope(),
        *rms_norm(),
        GATED,
        PRE_NORM,
        Key("qkv_bias", "attention.qkv_bias", default=True),
        Always({"attention.out_bias": False, "mlp.bias": False}),
        Fixed("use_sliding_window", (False,)),
        Key("num_experts", "moe.num_experts"),
        _TOP_K,
        *_QWEN_ROUTER,
        Key("shared_expert_intermediate_size", "moe.shared_intermediate_size"),
        Always({"moe.shared_experts": 1, "moe.shared_gate": True}),
    ),
    neutral=frozenset({"sliding_window", "max_window_layers", "layer_types"}),
)


def _read_switched_window(config: Reader, values: Values) -> None:
    window = config.take("sliding_window", default=4096)
    set_path(values, "attention.window", window if config.take("use_sliding_window", default=False) else None)


def _write_switched_window(values: Values, config: Values) -> None:
    window = get_path(values, "attention.window")
    config.update(use_sliding_window=window is not None, sliding_window=window)


QWEN3_MOE = HfType(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_default=4),
        tied(False),
        rope(),
        *rms_norm(),
        GATED,
        PRE_NORM,
        ATTENTION_BIAS,
        Always({"attention.qk_norm": "head", "mlp.bias": False}),
        Both(_read_switched_window, _write_switched_window),
        Fixed("use_qk_norm", (True,)),
        Key(("num_experts", "num_local_experts"), "moe.num_experts"),
        _TOP_K,
        *_QWEN_ROUTER,
    ),
    neutral=frozenset({"max_window_layers"}),
)

OLMOE = HfType(
    "olmoe",
    "OlmoeForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        rope(),
        *rms_norm(default=1e-5),
        GATED,
        PRE_NORM,
        ATTENTION_BIAS,
        Always({"attention.qk_norm": "full", "mlp.bias": False}),
        Fixed("clip_qkv", (None,)),
        Key("num_experts", "moe.num_experts"),
        _TOP_K,
        Always({"moe.router.score": "softmax", "moe.router.balance": "aux_loss"}),
        Key("norm_topk_prob", "moe.router.normalize", default=False),
        Key("router_aux_loss_coef", "moe.router.aux_loss_weight", default=0.01),
    ),
)

GPT_OSS = HfType(
    "gpt_oss",
    "GptOssForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_default=8, head_dim_default=64),
        tied(False),
        rope(theta=150_000.0),
        *rms_norm(default=1e-5),
        Fixed("hidden_act", ("silu",)),
        Fixed("swiglu_limit", (7.0,)),
        Fixed("swiglu_alpha", (1.702,)),
        Always({"mlp.activation": "clamped_swiglu", "mlp.bias": False, "attention.sinks": True}),
        PRE_NORM,
        Key("attention_bias", ("attention.qkv_bias", "attention.out_bias"), default=True),
        alternating_window(window_default=128, every=2),
        _NUM_EXPERTS,
        _TOP_K,
        Always({"moe.bias": True, "moe.router.bias": True}),
        _MIXTRAL_ROUTER,
        _AUX_LOSS,
    ),
    neutral=frozenset({"initial_context_length"}),
)

MINIMAX_M2 = HfType(
    "minimax_m2",
    "MiniMaxM2ForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_default=128, kv_default=8),
        tied(False),
        rope(theta=5e6, partial_key="partial_rotary_factor"),
        rotary_dim_key("rotary_dim"),
        *rms_norm(),
        GATED,
        PRE_NORM,
        NO_BIAS,
        Fixed("use_qk_norm", (True,)),
        Fixed("qk_norm_type", ("per_layer",)),
        Always({"attention.qk_norm": "full"}),
        _NUM_EXPERTS,
        _TOP_K,
        Fixed("scoring_func", ("sigmoid",)),
        Fixed("use_routing_bias", (True,)),
        Always({"moe.router.score": "sigmoid", "moe.router.normalize": True, "moe.router.balance": "bias"}),
        _AUX_LOSS,
        Fixed("router_jitter_noise", (0.0,)),
        Fixed("shared_intermediate_size", (0,)),
    ),
    neutral=frozenset({"use_mtp", "num_mtp_modules", "mtp_transformer_layers", "attn_type_list"}),
)
