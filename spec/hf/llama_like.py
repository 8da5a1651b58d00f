"""Types with RMSNorm, RoPE and a gated feed-forward block: Llama and its many relatives."""

from __future__ import annotations

import math

from .fields import Always, Both, Fixed, HfType, Key, Piece, Reader, Values, get_path, set_path
from .parts import (
    DIMENSIONS,
    GATED_ACTIVATIONS,
    GATED_WINDOW,
    PLAIN_WINDOW,
    PRE_NORM,
    heads,
    layer_norm,
    rms_norm,
    tied,
)
from .rope import rope

GATED = Key("hidden_act", "mlp.activation", default="silu", table=GATED_ACTIVATIONS)
ATTENTION_BIAS = Key("attention_bias", ("attention.qkv_bias", "attention.out_bias"), default=False)
NO_BIAS = Always({"attention.qkv_bias": False, "attention.out_bias": False, "mlp.bias": False})

_LLAMA: tuple[Piece, ...] = (
    *DIMENSIONS,
    heads(),
    tied(False),
    rope(),
    *rms_norm(),
    GATED,
    PRE_NORM,
    ATTENTION_BIAS,
    Key("mlp_bias", "mlp.bias", default=False),
)

LLAMA = HfType("llama", "LlamaForCausalLM", _LLAMA, neutral=frozenset({"rope_interleaved"}))

MISTRAL = HfType(
    "mistral",
    "MistralForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_default=8),
        tied(False),
        rope(),
        *rms_norm(),
        GATED,
        PRE_NORM,
        NO_BIAS,
        PLAIN_WINDOW,
    ),
)

QWEN2 = HfType(
    "qwen2",
    "Qwen2ForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        rope(),
        *rms_norm(),
        GATED,
        PRE_NORM,
        Always({"attention.qkv_bias": True, "attention.out_bias": False, "mlp.bias": False}),
        GATED_WINDOW,
    ),
    neutral=frozenset({"use_mrope"}),
)

QWEN3 = HfType(
    "qwen3",
    "Qwen3ForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_default=128),
        tied(False),
        rope(),
        *rms_norm(),
        GATED,
        PRE_NORM,
        ATTENTION_BIAS,
        Always({"attention.qk_norm": "head", "mlp.bias": False}),
        GATED_WINDOW,
    ),
)

PHI3 = HfType(
    "phi3",
    "Phi3ForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        rope(partial_key="partial_rotary_factor", writes_original=True),
        *rms_norm(default=1e-5),
        GATED,
        PRE_NORM,
        *(Fixed(key, (False,)) for key in ("attention_bias", "mlp_bias", "lm_head_bias")),
        *(Fixed(key, (1,)) for key in ("full_attn_mod", "interpolate_factor")),
        NO_BIAS,
        PLAIN_WINDOW,
    ),
)


def _multiplier(theirs: str, ours: str, *, is_divisor: bool = False) -> Both:
    """A multiplier (or divisor) of theirs that is a factor of ours; 1 is our null."""

    def read(config: Reader, values: Values) -> None:
        number = config.take(theirs, default=1.0)
        set_path(values, ours, None if number == 1 else 1 / number if is_divisor else number)

    def write(values: Values, config: Values) -> None:
        factor = get_path(values, ours) or 1.0
        config[theirs] = 1 / factor if is_divisor else factor

    return Both(read, write)


def _read_score_scale(config: Reader, values: Values) -> None:
    scale, usual = config.take("attention_multiplier", default=1.0), values["head_dim"] ** -0.5
    set_path(values, "attention.scale", None if math.isclose(scale, usual) else scale)


def _write_score_scale(values: Values, config: Values) -> None:
    config["attention_multiplier"] = get_path(values, "attention.scale") or values["head_dim"] ** -0.5


GRANITE = HfType(
    "granite",
    "GraniteForCausalLM",
    (
        *_LLAMA,
        _multiplier("embedding_multiplier", "embedding.scale"),
        _multiplier("residual_multiplier", "block.residual_scale"),
        _multiplier("logits_scaling", "head.scale", is_divisor=True),
        Both(_read_score_scale, _write_score_scale),
    ),
)

STABLELM = HfType(
    "stablelm",
    "StableLmForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        rope(partial=0.25, partial_key="partial_rotary_factor"),
        *layer_norm("layer_norm_eps"),
        GATED,
        PRE_NORM,
        Key("use_qkv_bias", "attention.qkv_bias", default=False),
        Always({"attention.out_bias": False, "mlp.bias": False}),
        Fixed("qk_layernorm", (False,)),
        Fixed("use_parallel_residual", (False,)),
    ),
    neutral=frozenset({"rotary_scaling_factor", "norm_eps"}),
)

GLM = HfType(
    "glm",
    "GlmForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_default=2),
        tied(False),
        rope(partial=0.5, partial_key="partial_rotary_factor", interleaved=True),
        *rms_norm(default=1.5625e-07),
        GATED,
        PRE_NORM,
        Key("attention_bias", "attention.qkv_bias", default=True),
        Always({"attention.out_bias": False, "mlp.bias": False}),
    ),
)

NEMOTRON = HfType(
    "nemotron",
    "NemotronForCausalLM",
    (
        *DIMENSIONS,
        heads(),
        tied(False),
        rope(partial=0.5, partial_key="partial_rotary_factor"),
        *layer_norm("norm_eps", unit_offset=True),
        Fixed("hidden_act", ("relu2",)),
        Always({"mlp.activation": "relu2"}),
        PRE_NORM,
        ATTENTION_BIAS,
        Key("mlp_bias", "mlp.bias", default=False),
    ),
)
