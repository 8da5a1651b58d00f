"""What Hugging Face calls each part of a model, a table a model type. Stems: `.weight` or `.bias` follows; `{i}` is a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


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
