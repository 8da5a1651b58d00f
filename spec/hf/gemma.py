"""Gemma 1, 2 and 3: scaled embeddings, norms with `1 + weight`, GeGLU; from 2 on sandwich norms, windows, soft caps."""

from __future__ import annotations

import math

from .fields import Always, Both, Fixed, HfType, Key, Piece, Reader, UnsupportedConfig, Values, get_path, set_path
from .llama_like import ATTENTION_BIAS
from .parts import PRE_NORM, alternating_window, heads, rms_norm, tied
from .rope import read_scaling, rope, write_scaling

_TANH = ("gelu_pytorch_tanh", "gelu")
"""Gemma's `gelu` is a legacy spelling; transformers computes the tanh form for it as well."""

_SCALED = Always({"embedding": {"scale": "sqrt_hidden_size"}, "mlp.activation": "geglu_tanh", "mlp.bias": False})


def _dimensions(defaults: dict[str, int]) -> tuple[Piece, ...]:
    """Published Gemma 3 configs leave out what equals the defaults of transformers."""
    keys = {
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_hidden_layers": "num_layers",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_seq_len",
    }
    return tuple(Key(theirs, ours, default=defaults[theirs]) for theirs, ours in keys.items())


def _read_score_scale(config: Reader, values: Values) -> None:
    scalar = config.take("query_pre_attn_scalar", default=256)
    set_path(values, "attention.scale", None if scalar == values["head_dim"] else scalar**-0.5)


def _write_score_scale(values: Values, config: Values) -> None:
    scale = get_path(values, "attention.scale")
    scalar = values["head_dim"] if scale is None else scale**-2
    config["query_pre_attn_scalar"] = round(scalar) if math.isclose(scalar, round(scalar)) else scalar


SCORE_SCALE = Both(_read_score_scale, _write_score_scale)
"""Scores are multiplied by query_pre_attn_scalar ** -0.5."""

GEMMA = HfType(
    "gemma",
    "GemmaForCausalLM",
    (
        *_dimensions(
            {"hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28}
            | {"vocab_size": 256_000, "max_position_embeddings": 8192}
        ),
        heads(head_dim_default=256),
        tied(True),
        rope(),
        *rms_norm(unit_offset=True),
        PRE_NORM,
        _SCALED,
        ATTENTION_BIAS,
        Fixed("hidden_act", _TANH),
        Fixed("hidden_activation", _TANH),
        Fixed("use_bidirectional_attention", (False,)),
    ),
)

_GEMMA_2: tuple[Piece, ...] = (
    heads(head_dim_default=256, kv_default=4, num_heads_default=8),
    tied(True),
    *rms_norm(unit_offset=True),
    Always({"block": {"kind": "sequential", "norms": "sandwich"}}),
    _SCALED,
    ATTENTION_BIAS,
    Fixed("hidden_activation", _TANH),
    Fixed("hidden_act", _TANH),
    Fixed("use_bidirectional_attention", (False,)),
    SCORE_SCALE,
)

GEMMA2 = HfType(
    "gemma2",
    "Gemma2ForCausalLM",
    (
        *_dimensions(
            {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
            | {"vocab_size": 256_000, "max_position_embeddings": 8192}
        ),
        *_GEMMA_2,
        rope(),
        alternating_window(window_default=4096, every=2),
        Key("attn_logit_softcapping", "attention.softcap", default=50.0),
        Key("final_logit_softcapping", "head.softcap", default=30.0),
    ),
    neutral=frozenset({"sliding_window_size"}),
)


def _read_two_thetas(config: Reader, values: Values) -> None:
    """Gemma 3: the scaling and `rope_theta` are for global layers, `rope_local_base_freq` is for those with a window."""
    nested = config.take("rope_parameters", default={})
    local, everywhere = nested.get("sliding_attention") or {}, nested.get("full_attention") or {}
    if local.get("rope_type", "default") != "default":
        raise UnsupportedConfig("rope_parameters.sliding_attention", "a scaling on sliding-window layers")
    scaling = everywhere or config.take("rope_scaling", default={})
    config.take("rope_scaling")
    values["position"] = {
        "kind": "rope",
        "theta": float(config.take("rope_theta", default=everywhere.get("rope_theta", 1e6))),
        "local_theta": float(config.take("rope_local_base_freq", default=local.get("rope_theta", 1e4))),
        "scaling": read_scaling(scaling, max_seq_len=values["max_seq_len"]),
    }


def _write_two_thetas(values: Values, config: Values) -> None:
    position = values["position"]
    config["rope_theta"] = position.get("theta")
    config["rope_local_base_freq"] = position.get("local_theta")
    config["rope_scaling"] = write_scaling(position.get("scaling"))


GEMMA3 = HfType(
    "gemma3_text",
    "Gemma3ForCausalLM",
    (
        *_dimensions(
            {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
            | {"vocab_size": 262_208, "max_position_embeddings": 131_072}
        ),
        *_GEMMA_2,
        Both(_read_two_thetas, _write_two_thetas),
        alternating_window(window_default=4096, every=6),
        Always({"attention.qk_norm": "head"}),
        Key("attn_logit_softcapping", "attention.softcap", default=None),
        Key("final_logit_softcapping", "head.softcap", default=None),
    ),
)
