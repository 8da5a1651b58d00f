"""Types that live in code beside their weights and not in transformers. They are read; the same model is written as a
type that transformers has, where there is one."""

from __future__ import annotations

from .fields import Always, Both, Fixed, HfType, Key, Reader, UnsupportedConfig, Values, set_path
from .llama_like import GATED, NO_BIAS
from .parts import DIMENSIONS, PRE_NORM, heads, rms_norm, tied
from .rope import rope


def _reads_only(values: Values, config: Values) -> None:
    raise NotImplementedError("transformers has no such type; another one is written")


def _read_internlm_position(config: Reader, values: Values) -> None:
    """InternLM 1: `rotary: {base, type}`. Its dynamic type has no effect up to max_position_embeddings."""
    rotary = config.take("rotary", default={})
    if rotary.get("type", "origin") not in ("origin", "dynamic") or rotary.get("scaling_factor", 1.0) != 1.0:
        raise UnsupportedConfig("rotary", f"{rotary!r} is no plain RoPE")
    values["position"] = {"kind": "rope", "theta": float(rotary.get("base", config.take("rope_theta", default=10_000)))}


INTERNLM = HfType(
    "internlm",
    "InternLMForCausalLM",
    (
        *DIMENSIONS,
        heads(kv_key=None, head_dim_key=None),
        tied(False),
        Both(_read_internlm_position, _reads_only),
        *rms_norm(),
        GATED,
        PRE_NORM,
        Key("bias", ("attention.qkv_bias", "attention.out_bias"), default=True),
        Always({"mlp.bias": False}),
    ),
    writes=False,
)

INTERNLM2 = HfType(
    "internlm2",
    "InternLM2ForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(False),
        rope(),
        *rms_norm(),
        GATED,
        PRE_NORM,
        Key("bias", ("attention.qkv_bias", "attention.out_bias"), default=True),
        Always({"mlp.bias": False}),
    ),
    writes=False,
)


def _read_baichuan_position(config: Reader, values: Values) -> None:
    """The 7B has RoPE; the 13B has ALiBi and calls its length model_max_length. Baichuan 2 divides each row of the head
    by its norm; both generations share this model type, and only the vocabulary tells them apart."""
    values["max_seq_len"] = config.take("max_position_embeddings", "model_max_length")
    has_rope = config.take("max_position_embeddings") is not None
    values["position"] = {"kind": "rope", "theta": 10_000.0} if has_rope else {"kind": "alibi"}
    if values["vocab_size"] == 125_696:
        set_path(values, "head.normalize", True)


BAICHUAN = HfType(
    "baichuan",
    "BaichuanForCausalLM",
    (
        *(piece for piece in DIMENSIONS if piece != DIMENSIONS[-1]),
        Both(_read_baichuan_position, _reads_only),
        heads(kv_key=None, head_dim_key=None),
        tied(False),
        *rms_norm(),
        GATED,
        PRE_NORM,
        NO_BIAS,
    ),
    writes=False,
    neutral=frozenset({"model_max_length", "z_loss_weight"}),
)


def _read_qwen(config: Reader, values: Values) -> None:
    """Qwen 1: `intermediate_size` counts gate and up together; NTK and log-n scaling act beyond `seq_length` only, so up
    to that length the model is plain."""
    values["intermediate_size"] = config.take("intermediate_size", default=None) // 2
    values["max_seq_len"] = config.take("seq_length")
    for key in ("max_position_embeddings", "use_dynamic_ntk", "use_logn_attn", "rotary_pct", "scale_attn_weights"):
        config.take(key)
    if config.take("rotary_pct", default=1.0) != 1.0:
        raise UnsupportedConfig("rotary_pct", "Qwen rotates whole heads")


QWEN = HfType(
    "qwen",
    "QWenLMHeadModel",
    (
        Key("hidden_size", "hidden_size"),
        Key("num_hidden_layers", "num_layers"),
        Key("vocab_size", "vocab_size"),
        Both(_read_qwen, _reads_only),
        heads(kv_key=None, head_dim_key="kv_channels"),
        tied(False),
        rope(theta_keys=("rotary_emb_base",)),
        *rms_norm("layer_norm_epsilon"),
        Always({"mlp.activation": "swiglu", "mlp.bias": False}),
        PRE_NORM,
        Fixed("no_bias", (True,)),
        Always({"attention.qkv_bias": True, "attention.out_bias": False}),
    ),
    writes=False,
    neutral=frozenset(
        {"bf16", "fp16", "fp32", "emb_dropout_prob", "attn_dropout_prob", "use_cache_quantization", "use_cache_kernel"}
        | {"tokenizer_type", "onnx_safe", "softmax_in_fp32"}
    ),
)


def _read_chatglm(config: Reader, values: Values) -> None:
    """ChatGLM 2/3: half of each head rotates, in pairs. Its own names for nearly everything."""
    switches = {
        "rmsnorm": True,
        "post_layer_norm": True,
        "apply_residual_connection_post_layernorm": False,
        "add_bias_linear": False,
        "original_rope": True,
        "multi_query_attention": True,
        "prefix_projection": False,
    }
    for key, needed in switches.items():
        if config.take(key, default=needed) is not needed:
            raise UnsupportedConfig(key, f"only {needed} can be expressed")
    size = config.take("kv_channels", default=128)
    ratio = config.take("rope_ratio", default=1.0)
    position = {"kind": "rope", "theta": 10_000.0 * ratio, "rotary_dim": size // 2, "interleaved": True}
    values["position"] = position


CHATGLM = HfType(
    "chatglm",
    "ChatGLMForConditionalGeneration",
    (
        Key("hidden_size", "hidden_size"),
        Key("ffn_hidden_size", "intermediate_size"),
        Key("num_layers", "num_layers"),
        Key(("padded_vocab_size", "vocab_size"), "vocab_size"),
        Key("seq_length", "max_seq_len"),
        heads(kv_key="multi_query_group_num", head_dim_key="kv_channels"),
        tied(False),
        Both(_read_chatglm, _reads_only),
        *rms_norm("layernorm_epsilon", default=1e-5),
        Always({"mlp.activation": "swiglu", "mlp.bias": False}),
        PRE_NORM,
        Key("add_qkv_bias", "attention.qkv_bias", default=False),
        Always({"attention.out_bias": False}),
    ),
    writes=False,
    neutral=frozenset(
        {
            "apply_query_key_layer_scaling",
            "attention_softmax_in_fp32",
            "fp32_residual_connection",
            "bias_dropout_fusion",
        }
        | {"pre_seq_len", "quantization_bit", "classifier_dropout"}
    ),
)


def _read_minicpm_scales(config: Reader, values: Values) -> None:
    """muP scales: scale_depth / sqrt(num_layers) on each residual, dim_model_base / hidden_size on the logits."""
    set_path(values, "embedding.scale", float(config.take("scale_emb", default=1)))
    set_path(values, "block.residual_scale", config.take("scale_depth", default=1) / values["num_layers"] ** 0.5)
    set_path(values, "head.scale", config.take("dim_model_base", default=1) / values["hidden_size"])


MINICPM = HfType(
    "minicpm",
    "MiniCPMForCausalLM",
    (
        *DIMENSIONS,
        heads(head_dim_key=None),
        tied(True),
        rope(),
        *rms_norm(),
        GATED,
        Always({"block.kind": "sequential", "block.norms": "pre"}),
        NO_BIAS,
        Both(_read_minicpm_scales, _reads_only),
        Fixed("attention_bias", (False,)),
        Fixed("num_experts", (0,)),
    ),
    writes=False,
)
