"""Falcon (parallel blocks, rotary), BLOOM and MPT (ALiBi)."""

from __future__ import annotations

from .fields import Always, Both, Fixed, HfType, Key, Reader, UnsupportedConfig, Values, get_path, set_path
from .neutral import NEUTRAL
from .parts import ACTIVATIONS, PRE_NORM, attention_kind, heads, inner_size, layer_norm, tied
from .rope import rope

_ALL_BIASES = Always({"attention.qkv_bias": True, "attention.out_bias": True, "mlp.bias": True})


def _read_four_times(config: Reader, values: Values) -> None:
    values["intermediate_size"] = 4 * values["hidden_size"]


def _write_four_times(values: Values, config: Values) -> None:
    """The type has no key for it; another width is noticed when the config is read back."""


_FOUR_TIMES = Both(_read_four_times, _write_four_times)


def _read_falcon(config: Reader, values: Values) -> None:
    """Two generations in one type. New: grouped heads and (by default) two norms beside each other. Old: one key/value
    head or as many as query heads, and one norm."""
    is_new = config.take("new_decoder_architecture", default=False)
    is_parallel = config.take("parallel_attn", default=True) or is_new
    is_multi_query = config.take("multi_query", default=True)
    num_heads = values["num_heads"]
    grouped = config.take("num_kv_heads", "n_head_kv", default=num_heads)
    num_kv_heads = grouped if is_new else 1 if is_multi_query else num_heads
    values["num_kv_heads"] = num_kv_heads
    set_path(values, "attention.kind", attention_kind(num_heads, num_kv_heads))
    num_norms = config.take("num_ln_in_parallel_attn", default=2 if is_new else 1)
    parallel = {"kind": "parallel", "norms": "separate" if num_norms == 2 else "shared"}
    values["block"] = parallel if is_parallel else {"kind": "sequential", "norms": "pre"}
    if config.take("alibi", default=False):
        raise UnsupportedConfig(
            "alibi", "Falcon divides its ALiBi biases by head_dim ** 0.5, which cannot be expressed"
        )


def _write_falcon(values: Values, config: Values) -> None:
    num_heads, num_kv_heads = values["num_heads"], values["num_kv_heads"]
    is_parallel = values["block"]["kind"] == "parallel"
    is_new = num_kv_heads not in (1, num_heads) or get_path(values, "block.norms") == "separate"
    config["new_decoder_architecture"] = is_new
    config["multi_query"] = num_kv_heads == 1
    config["num_kv_heads"] = num_kv_heads
    config["parallel_attn"] = is_parallel
    config["alibi"] = False
    if is_new:
        config["num_ln_in_parallel_attn"] = 2 if values["block"]["norms"] == "separate" else 1


FALCON = HfType(
    "falcon",
    "FalconForCausalLM",
    (
        Key(("hidden_size", "n_embed"), "hidden_size"),
        Key(("num_hidden_layers", "n_layer"), "num_layers"),
        Key("vocab_size", "vocab_size"),
        Key("max_position_embeddings", "max_seq_len", default=2048),
        inner_size("ffn_hidden_size"),
        heads(heads_key=("num_attention_heads", "n_head"), kv_key=None, head_dim_key=None),
        Both(_read_falcon, _write_falcon),
        tied(True),
        *layer_norm("layer_norm_epsilon"),
        Key("activation", "mlp.activation", default="gelu", table=ACTIVATIONS),
        Key("bias", ("attention.qkv_bias", "attention.out_bias", "mlp.bias"), default=False),
        rope(),
    ),
    neutral=frozenset({"apply_residual_connection_post_layernorm"}),
)

BLOOM = HfType(
    "bloom",
    "BloomForCausalLM",
    (
        Key(("hidden_size", "n_embed"), "hidden_size"),
        Key(("n_layer", "num_hidden_layers"), "num_layers"),
        Key("vocab_size", "vocab_size"),
        Key("seq_length", "max_seq_len", default=2048),
        _FOUR_TIMES,
        heads(heads_key=("n_head", "num_attention_heads"), kv_key=None, head_dim_key=None),
        tied(True),
        *layer_norm("layer_norm_epsilon"),
        Always({"mlp.activation": "gelu_tanh", "embedding.norm": True, "position.kind": "alibi"}),
        PRE_NORM,
        _ALL_BIASES,
        Fixed("apply_residual_connection_post_layernorm", (False,)),
    ),
    neutral=frozenset(
        {"slow_but_exact", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "masked_softmax_fusion"}
        | {"bias_dropout_fusion", "attention_softmax_in_fp32"}
    ),
)


def _read_mpt_attention(config: Reader, values: Values) -> None:
    """transformers' MPT is ALiBi only, whatever `learned_pos_emb` says: it has no position table."""
    attention = Reader(config.take("attn_config", default={}))
    if attention.take("alibi", default=True) is not True or attention.take("alibi_bias_max", default=8) != 8:
        raise UnsupportedConfig("attn_config.alibi", "only ALiBi with alibi_bias_max 8 can be expressed")
    for key in ("clip_qkv", "prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        if attention.take(key):
            raise UnsupportedConfig(f"attn_config.{key}", "cannot be expressed")
    set_path(values, "attention.scale", attention.take("softmax_scale"))
    neutral = {"attn_type", "attn_pdrop", "attn_impl", "kv_n_heads"}
    attention.finish(NEUTRAL | neutral, prefix="attn_config.")


def _write_mpt_attention(values: Values, config: Values) -> None:
    config["attn_config"] = {"alibi": True, "alibi_bias_max": 8, "softmax_scale": get_path(values, "attention.scale")}


MPT = HfType(
    "mpt",
    "MptForCausalLM",
    (
        Key("d_model", "hidden_size"),
        Key("n_layers", "num_layers"),
        Key("vocab_size", "vocab_size"),
        Key("max_seq_len", "max_seq_len"),
        _FOUR_TIMES,
        Fixed("expansion_ratio", (4,)),
        heads(heads_key="n_heads", kv_key=None, head_dim_key=None),
        tied(True),
        *layer_norm("layer_norm_epsilon", bias=False),
        Always({"mlp.activation": "gelu", "mlp.bias": False, "position.kind": "alibi"}),
        Always({"attention.qkv_bias": False, "attention.out_bias": False}),
        PRE_NORM,
        Both(_read_mpt_attention, _write_mpt_attention),
        Fixed("no_bias", (True,)),
        Fixed("norm_type", ("low_precision_layernorm",)),
        Fixed("embedding_fraction", (1.0,)),
    ),
    neutral=frozenset({"learned_pos_emb", "init_device", "init_config", "verbose", "fc_type", "ffn_config"}),
)
