"""What Hugging Face calls each part of a model, a table a model type. Stems: `.weight` or `.bias` follows; `{i}` is a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class HfExperts:
    """Where the parameters of a mixture of experts are. `{e}` is an expert."""

    router: str
    up: str
    """With `{part}`, two tensors an expert, or the stem of one tensor that holds gate and up of all experts, interleaved."""
    down: str
    parts: tuple[str, str] = ("gate_proj", "up_proj")
    """What stands for `{part}`: gate and up."""
    balance_bias: str = ""
    """The whole name of the bias that balances experts."""
    shared: str = ""
    shared_gate: str = ""


@dataclass(frozen=True)
class HfLatent:
    """Where the parameters of latent attention are."""

    q: str
    q_down: str
    q_norm: str
    q_up: str
    kv_down: str
    kv_norm: str
    kv_up: str


@dataclass(frozen=True)
class HfNames:
    """Where the parameters of one model type are. A part that a type never has stays empty."""

    embed: str
    attn_norm: str
    qkv: str
    """One tensor that holds all; with `{part}`, three of which the parts are q, k and v."""
    out: str
    down: str
    norm: str
    up: str
    """Up alone, or one tensor that holds gate and up; with `{part}`, two of which the parts are gate and up."""
    mlp_norm: str = ""
    attn_post_norm: str = ""
    mlp_post_norm: str = ""
    q_norm: str = ""
    k_norm: str = ""
    positions: str = ""
    embed_norm: str = ""
    head: str = "lm_head"
    qkv_rows: Literal["stacked", "grouped"] = "stacked"
    """In one tensor: all queries, then keys, then values; or side by side for each key/value head."""
    is_transposed: bool = False
    """Whether matrices of the blocks are stored as [in, out]."""
    sinks: str = ""
    """The whole name: there is no stem with a weight."""
    experts: HfExperts | None = None
    latent: HfLatent | None = None


_LLAMA = HfNames(
    embed="model.embed_tokens",
    attn_norm="model.layers.{i}.input_layernorm",
    qkv="model.layers.{i}.self_attn.{part}_proj",
    q_norm="model.layers.{i}.self_attn.q_norm",
    k_norm="model.layers.{i}.self_attn.k_norm",
    out="model.layers.{i}.self_attn.o_proj",
    mlp_norm="model.layers.{i}.post_attention_layernorm",
    up="model.layers.{i}.mlp.{part}_proj",
    down="model.layers.{i}.mlp.down_proj",
    norm="model.norm",
)
_SANDWICH = replace(
    _LLAMA,
    attn_post_norm="model.layers.{i}.post_attention_layernorm",
    mlp_norm="model.layers.{i}.pre_feedforward_layernorm",
    mlp_post_norm="model.layers.{i}.post_feedforward_layernorm",
)
_GPT2 = HfNames(
    embed="transformer.wte",
    positions="transformer.wpe",
    attn_norm="transformer.h.{i}.ln_1",
    qkv="transformer.h.{i}.attn.c_attn",
    out="transformer.h.{i}.attn.c_proj",
    mlp_norm="transformer.h.{i}.ln_2",
    up="transformer.h.{i}.mlp.c_fc",
    down="transformer.h.{i}.mlp.c_proj",
    norm="transformer.ln_f",
    is_transposed=True,
)
_BLOOM = HfNames(
    embed="transformer.word_embeddings",
    embed_norm="transformer.word_embeddings_layernorm",
    attn_norm="transformer.h.{i}.input_layernorm",
    qkv="transformer.h.{i}.self_attention.query_key_value",
    qkv_rows="grouped",
    out="transformer.h.{i}.self_attention.dense",
    mlp_norm="transformer.h.{i}.post_attention_layernorm",
    up="transformer.h.{i}.mlp.dense_h_to_4h",
    down="transformer.h.{i}.mlp.dense_4h_to_h",
    norm="transformer.ln_f",
)

_ATTN, _MLP = "model.layers.{i}.self_attn", "model.layers.{i}.mlp"
_BLOCK_SPARSE = HfExperts(
    router="model.layers.{i}.block_sparse_moe.gate",
    up="model.layers.{i}.block_sparse_moe.experts.{e}.{part}",
    down="model.layers.{i}.block_sparse_moe.experts.{e}.w2",
    parts=("w1", "w3"),
)
_EXPERTS = HfExperts(router=f"{_MLP}.gate", up=_MLP + ".experts.{e}.{part}", down=_MLP + ".experts.{e}.down_proj")
_DEEPSEEK = replace(
    _LLAMA,
    experts=replace(_EXPERTS, shared=f"{_MLP}.shared_experts", balance_bias=f"{_MLP}.gate.e_score_correction_bias"),
    latent=HfLatent(
        q=f"{_ATTN}.q_proj",
        q_down=f"{_ATTN}.q_a_proj",
        q_norm=f"{_ATTN}.q_a_layernorm",
        q_up=f"{_ATTN}.q_b_proj",
        kv_down=f"{_ATTN}.kv_a_proj_with_mqa",
        kv_norm=f"{_ATTN}.kv_a_layernorm",
        kv_up=f"{_ATTN}.kv_b_proj",
    ),
)

HF_NAMES: dict[str, HfNames] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "granite", "stablelm"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _SANDWICH),
    "phi3": replace(_LLAMA, qkv="model.layers.{i}.self_attn.qkv_proj", up="model.layers.{i}.mlp.gate_up_proj"),
    "glm": replace(_LLAMA, up="model.layers.{i}.mlp.gate_up_proj"),
    "nemotron": replace(_LLAMA, up="model.layers.{i}.mlp.up_proj"),
    "phi": replace(
        _LLAMA,
        out="model.layers.{i}.self_attn.dense",
        up="model.layers.{i}.mlp.fc1",
        down="model.layers.{i}.mlp.fc2",
        norm="model.final_layernorm",
    ),
    "starcoder2": replace(_LLAMA, up="model.layers.{i}.mlp.c_fc", down="model.layers.{i}.mlp.c_proj"),
    "mixtral": replace(_LLAMA, experts=_BLOCK_SPARSE),
    "minimax_m2": replace(
        _LLAMA,
        experts=replace(_BLOCK_SPARSE, balance_bias="model.layers.{i}.block_sparse_moe.e_score_correction_bias"),
    ),
    "qwen2_moe": replace(
        _LLAMA, experts=replace(_EXPERTS, shared=f"{_MLP}.shared_expert", shared_gate=f"{_MLP}.shared_expert_gate")
    ),
    **dict.fromkeys(("qwen3_moe", "olmoe"), replace(_LLAMA, experts=_EXPERTS)),
    "gpt_oss": replace(
        _LLAMA,
        sinks=f"{_ATTN}.sinks",
        experts=HfExperts(router=f"{_MLP}.router", up=f"{_MLP}.experts.gate_up_proj", down=f"{_MLP}.experts.down_proj"),
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _DEEPSEEK),
    "gpt2": _GPT2,
    "gpt_bigcode": replace(_GPT2, qkv_rows="grouped", is_transposed=False),
    "gptj": HfNames(
        embed="transformer.wte",
        attn_norm="transformer.h.{i}.ln_1",
        qkv="transformer.h.{i}.attn.{part}_proj",
        out="transformer.h.{i}.attn.out_proj",
        up="transformer.h.{i}.mlp.fc_in",
        down="transformer.h.{i}.mlp.fc_out",
        norm="transformer.ln_f",
    ),
    "gpt_neox": HfNames(
        embed="gpt_neox.embed_in",
        attn_norm="gpt_neox.layers.{i}.input_layernorm",
        qkv="gpt_neox.layers.{i}.attention.query_key_value",
        qkv_rows="grouped",
        out="gpt_neox.layers.{i}.attention.dense",
        mlp_norm="gpt_neox.layers.{i}.post_attention_layernorm",
        up="gpt_neox.layers.{i}.mlp.dense_h_to_4h",
        down="gpt_neox.layers.{i}.mlp.dense_4h_to_h",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
    ),
    "bloom": _BLOOM,
    "falcon": replace(_BLOOM, embed_norm=""),
    "mpt": HfNames(
        embed="transformer.wte",
        attn_norm="transformer.blocks.{i}.norm_1",
        qkv="transformer.blocks.{i}.attn.Wqkv",
        out="transformer.blocks.{i}.attn.out_proj",
        mlp_norm="transformer.blocks.{i}.norm_2",
        up="transformer.blocks.{i}.ffn.up_proj",
        down="transformer.blocks.{i}.ffn.down_proj",
        norm="transformer.norm_f",
    ),
    "opt": HfNames(
        embed="model.decoder.embed_tokens",
        positions="model.decoder.embed_positions",
        attn_norm="model.decoder.layers.{i}.self_attn_layer_norm",
        qkv="model.decoder.layers.{i}.self_attn.{part}_proj",
        out="model.decoder.layers.{i}.self_attn.out_proj",
        mlp_norm="model.decoder.layers.{i}.final_layer_norm",
        up="model.decoder.layers.{i}.fc1",
        down="model.decoder.layers.{i}.fc2",
        norm="model.decoder.final_layer_norm",
    ),
}


def names_of(model_type: str, *, has_two_parallel_norms: bool = False) -> HfNames | None:
    """The names of a model type; None for one that is not converted. Falcon names a pair of parallel norms differently."""
    names = HF_NAMES.get(model_type)
    if names is not None and model_type == "falcon" and has_two_parallel_norms:
        return replace(names, attn_norm="transformer.h.{i}.ln_attn", mlp_norm="transformer.h.{i}.ln_mlp")
    return names
