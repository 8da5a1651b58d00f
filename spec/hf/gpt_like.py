"""Types with layer norms and a plain feed-forward block: GPT-2 and its relatives, sequential or parallel."""

from __future__ import annotations

from .fields import Always, Both, Fixed, HfType, Key, Piece, Reader, UnsupportedConfig, Values, set_path
from .parts import ACTIVATIONS, DIMENSIONS, PLAIN_WINDOW, PRE_NORM, heads, inner_size, layer_norm, tied
from .rope import rope, rotary_dim_key

_ALL_BIASES = Always({"attention.qkv_bias": True, "attention.out_bias": True, "mlp.bias": True})
_LEARNED = Always({"position": {"kind": "learned", "offset": 0}})
_GELU_NEW_FIRST = {"gelu_new": "gelu_tanh"} | ACTIVATIONS


_GPT2_DIMENSIONS: tuple[Piece, ...] = (
    Key(("n_embd", "hidden_size"), "hidden_size"),
    Key(("n_layer", "num_hidden_layers"), "num_layers"),
    Key("vocab_size", "vocab_size"),
    Key(("n_positions", "n_ctx"), "max_seq_len"),
    inner_size("n_inner"),
)

GPT2 = HfType(
    "gpt2",
    "GPT2LMHeadModel",
    (
        *_GPT2_DIMENSIONS,
        heads(heads_key="n_head", kv_key=None, head_dim_key=None),
        tied(True),
        *layer_norm("layer_norm_epsilon"),
        Key("activation_function", "mlp.activation", default="gelu_new", table=_GELU_NEW_FIRST),
        PRE_NORM,
        _ALL_BIASES,
        _LEARNED,
        Fixed("scale_attn_weights", (True,)),
        Fixed("scale_attn_by_inverse_layer_idx", (False,)),
        Fixed("add_cross_attention", (False,)),
    ),
)


def _read_multi_query(config: Reader, values: Values) -> None:
    is_multi_query = config.take("multi_query", default=True)
    values["num_kv_heads"] = 1 if is_multi_query else values["num_heads"]
    set_path(values, "attention.kind", "mqa" if is_multi_query else "mha")


def _write_multi_query(values: Values, config: Values) -> None:
    config["multi_query"] = values["num_kv_heads"] == 1


GPT_BIGCODE = HfType(
    "gpt_bigcode",
    "GPTBigCodeForCausalLM",
    (
        *_GPT2_DIMENSIONS,
        heads(heads_key="n_head", kv_key=None, head_dim_key=None),
        Both(_read_multi_query, _write_multi_query),
        tied(True),
        *layer_norm("layer_norm_epsilon"),
        Key("activation_function", "mlp.activation", default="gelu_pytorch_tanh", table=ACTIVATIONS),
        PRE_NORM,
        _ALL_BIASES,
        _LEARNED,
        Fixed("scale_attn_weights", (True,)),
        Fixed("add_cross_attention", (False,)),
    ),
    neutral=frozenset(
        {"inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length", "pre_allocate_kv_cache"}
        | {"validate_runner_input", "n_ctx", "num_key_value_heads"}
    ),
)

GPTJ = HfType(
    "gptj",
    "GPTJForCausalLM",
    (
        *_GPT2_DIMENSIONS,
        heads(heads_key="n_head", kv_key=None, head_dim_key=None),
        tied(False),
        *layer_norm("layer_norm_epsilon"),
        Key("activation_function", "mlp.activation", default="gelu_new", table=_GELU_NEW_FIRST),
        Always({"block": {"kind": "parallel", "norms": "shared"}}),
        Always({"attention.qkv_bias": False, "attention.out_bias": False, "mlp.bias": True, "head.bias": True}),
        Always({"position": {"kind": "rope", "theta": 10_000.0, "interleaved": True}}),
        rotary_dim_key("rotary_dim"),
        Fixed("rotary", (True,)),
        Fixed("scale_attn_weights", (True,)),
    ),
    neutral=frozenset({"n_ctx"}),
)

PHI = HfType(
    "phi",
    "PhiForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        *layer_norm("layer_norm_eps"),
        Key("hidden_act", "mlp.activation", default="gelu_new", table=_GELU_NEW_FIRST),
        Always({"block": {"kind": "parallel", "norms": "shared"}, "head.bias": True}),
        _ALL_BIASES,
        rope(partial=0.5, partial_key="partial_rotary_factor"),
        Fixed("qk_layernorm", (False,)),
    ),
)


def _read_residual(config: Reader, values: Values) -> None:
    is_parallel = config.take("use_parallel_residual", default=True)
    parallel, sequential = {"kind": "parallel", "norms": "separate"}, {"kind": "sequential", "norms": "pre"}
    values["block"] = parallel if is_parallel else sequential


def _write_residual(values: Values, config: Values) -> None:
    config["use_parallel_residual"] = values["block"]["kind"] == "parallel"


GPT_NEOX = HfType(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_key=None, head_dim_key=None),
        tied(False),
        *layer_norm("layer_norm_eps"),
        Key("hidden_act", "mlp.activation", default="gelu", table=ACTIVATIONS),
        Both(_read_residual, _write_residual),
        Key("attention_bias", ("attention.qkv_bias", "attention.out_bias"), default=True),
        Always({"mlp.bias": True}),
        rope(partial=0.25, partial_key="rotary_pct", theta_keys=("rotary_emb_base", "rope_theta")),
    ),
)

STARCODER2 = HfType(
    "starcoder2",
    "Starcoder2ForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None, kv_default=2),
        tied(True),
        *layer_norm("norm_epsilon"),
        Key("hidden_act", "mlp.activation", default="gelu_pytorch_tanh", table=ACTIVATIONS),
        PRE_NORM,
        Key("use_bias", ("attention.qkv_bias", "attention.out_bias", "mlp.bias"), default=True),
        rope(),
        PLAIN_WINDOW,
        Fixed("norm_type", ("layer_norm",)),
        Fixed("scale_attn_weights", (True,)),
        Fixed("mlp_type", ("default",)),
    ),
    neutral=frozenset({"activation_function", "layer_norm_epsilon"}),
)


def _same_width(config: Reader, values: Values) -> None:
    """OPT-350M embeds into another width than it computes in."""
    if config.take("word_embed_proj_dim", default=values["hidden_size"]) != values["hidden_size"]:
        raise UnsupportedConfig("word_embed_proj_dim", "an embedding narrower than the model cannot be expressed")


def _write_same_width(values: Values, config: Values) -> None:
    config["word_embed_proj_dim"] = values["hidden_size"]


OPT = HfType(
    "opt",
    "OPTForCausalLM",
    (
        Key("hidden_size", "hidden_size"),
        Key("ffn_dim", "intermediate_size"),
        Key("num_hidden_layers", "num_layers"),
        Key("vocab_size", "vocab_size"),
        Key("max_position_embeddings", "max_seq_len"),
        heads(kv_key=None, head_dim_key=None),
        tied(True),
        Always({"norm": {"kind": "layernorm", "eps": 1e-5, "bias": True}}),
        Key("activation_function", "mlp.activation", default="relu", table=ACTIVATIONS),
        PRE_NORM,
        _ALL_BIASES,
        Always({"position": {"kind": "learned", "offset": 2}}),
        Both(_same_width, _write_same_width),
        Fixed("do_layer_norm_before", (True,)),
        Fixed("_remove_final_layer_norm", (False,)),
        Fixed("enable_bias", (True,)),
        Fixed("layer_norm_elementwise_affine", (True,)),
    ),
)
