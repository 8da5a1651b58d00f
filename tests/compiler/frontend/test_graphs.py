"""Specs of models become graphs: parameter counts that are published, and the text form of whole graphs."""

from __future__ import annotations

import pytest
from llmc.compiler.frontend.model import build_model
from llmc.compiler.ir.text import print_graph
from llmc.spec.model import Model

LLAMA_3_8B = {
    "hidden_size": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_seq_len": 8192,
    "attention": {"kind": "gqa"},
    "position": {"kind": "rope", "theta": 5e5},
    "mlp": {"activation": "swiglu"},
    "norm": {"kind": "rmsnorm"},
}
GPT2 = {
    "hidden_size": 768,
    "num_layers": 12,
    "num_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 50257,
    "max_seq_len": 1024,
    "tie_embeddings": True,
    "attention": {"kind": "mha", "qkv_bias": True, "out_bias": True},
    "position": {"kind": "learned"},
    "mlp": {"activation": "gelu_tanh", "bias": True},
    "norm": {"kind": "layernorm"},
}
FALCON_7B = {
    "hidden_size": 4544,
    "num_layers": 32,
    "num_heads": 71,
    "intermediate_size": 18176,
    "vocab_size": 65024,
    "max_seq_len": 2048,
    "tie_embeddings": True,
    "block": {"kind": "parallel", "norms": "shared"},
    "attention": {"kind": "mqa"},
    "position": {"kind": "rope"},
    "mlp": {"activation": "gelu"},
    "norm": {"kind": "layernorm"},
}
GEMMA_2_9B = {
    "hidden_size": 3584,
    "num_layers": 42,
    "num_heads": 16,
    "num_kv_heads": 8,
    "head_dim": 256,
    "intermediate_size": 14336,
    "vocab_size": 256000,
    "max_seq_len": 8192,
    "tie_embeddings": True,
    "embedding": {"scale": "sqrt_hidden_size"},
    "block": {"kind": "sequential", "norms": "sandwich"},
    "attention": {"kind": "gqa", "window": 4096, "global_every": 2, "softcap": 50.0},
    "position": {"kind": "rope"},
    "mlp": {"activation": "geglu_tanh"},
    "norm": {"kind": "rmsnorm", "unit_offset": True},
    "head": {"softcap": 30.0},
}
DEEPSEEK_V3 = {
    "hidden_size": 7168,
    "num_layers": 61,
    "num_heads": 128,
    "intermediate_size": 18432,
    "vocab_size": 129280,
    "max_seq_len": 163840,
    "attention": {
        "kind": "mla",
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
    "position": {"kind": "rope", "interleaved": True},
    "mlp": {"activation": "swiglu"},
    "norm": {"kind": "rmsnorm", "eps": 1e-6},
    "moe": {
        "num_experts": 256,
        "experts_per_token": 8,
        "intermediate_size": 2048,
        "shared_experts": 1,
        "first_dense_layers": 3,
        "router": {"score": "sigmoid", "balance": "bias", "groups": 8, "topk_groups": 4, "scale": 2.5},
    },
}
GPT_OSS_20B = {
    "hidden_size": 2880,
    "num_layers": 24,
    "num_heads": 64,
    "num_kv_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "vocab_size": 201088,
    "max_seq_len": 131072,
    "attention": {
        "kind": "gqa",
        "window": 128,
        "global_every": 2,
        "qkv_bias": True,
        "out_bias": True,
        "sinks": True,
    },
    "position": {"kind": "rope", "theta": 150000.0},
    "mlp": {"activation": "clamped_swiglu"},
    "norm": {"kind": "rmsnorm"},
    "moe": {"num_experts": 32, "experts_per_token": 4, "bias": True, "router": {"bias": True}},
}

# Sum of p.numel() over transformers' model built on the meta device from the published config.json.
PUBLISHED = [
    ("llama-3-8b", LLAMA_3_8B, 8_030_261_248),
    ("gpt2", GPT2, 124_439_808),
    ("falcon-7b", FALCON_7B, 6_921_720_704),
    ("gemma-2-9b", GEMMA_2_9B, 9_241_705_984),
    ("deepseek-v3", DEEPSEEK_V3, 671_026_404_352),
    ("gpt-oss-20b", GPT_OSS_20B, 20_914_757_184),
]


def graph_of(fields: dict, *, name: str = "model"):
    return build_model(Model.model_validate(fields), name=name)


@pytest.mark.parametrize(("name", "fields", "count"), PUBLISHED, ids=[name for name, _, _ in PUBLISHED])
def test_parameters_are_counted_as_published(name: str, fields: dict, count: int):
    assert graph_of(fields).num_parameters() == count


def test_a_token_uses_37_billion_of_deepseek_v3():
    """The paper says 37B activated: the embedding, which is looked up, included."""
    assert round(graph_of(DEEPSEEK_V3).active_parameters() / 1e9) == 38
    without_embedding = graph_of(DEEPSEEK_V3).active_parameters() - 129280 * 7168
    assert round(without_embedding / 1e9) == 37


@pytest.mark.parametrize(("name", "fields", "count"), PUBLISHED, ids=[name for name, _, _ in PUBLISHED])
def test_text_of_a_graph(name: str, fields: dict, count: int, snapshot):
    assert print_graph(graph_of(fields, name=name)) == snapshot


def test_equal_layers_fold_into_one_block():
    shallow = graph_of(LLAMA_3_8B)
    deep = graph_of(LLAMA_3_8B | {"num_layers": 1000})
    assert len(deep.all_ops) == len(shallow.all_ops)
    assert deep.count("block") == 1000


def test_each_nth_layer_attends_globally_counted_from_one():
    fields = LLAMA_3_8B | {"num_layers": 8, "attention": {"kind": "gqa", "window": 16, "global_every": 3}}
    assert graph_of(fields).order == ("local", "local", "global", "local", "local", "global", "local", "local")


def test_experts_follow_the_first_dense_layers():
    moe = {"num_experts": 4, "experts_per_token": 2, "first_dense_layers": 1, "every": 2}
    graph = graph_of(LLAMA_3_8B | {"num_layers": 6, "moe": moe})
    assert graph.order == ("dense", "dense", "moe", "dense", "moe", "dense")


def test_local_layers_rotate_with_their_own_base_unscaled():
    """Gemma 3: 10,000 on sliding-window layers, a scaled million on global ones."""
    position = {"kind": "rope", "theta": 1e6, "local_theta": 1e4, "scaling": {"kind": "linear", "factor": 8.0}}
    fields = LLAMA_3_8B | {"attention": {"kind": "gqa", "window": 1024, "global_every": 6}, "position": position}
    graph = graph_of(fields)
    local, globally = graph["local/attn.q_rope"].attrs, graph["global/attn.q_rope"].attrs
    assert (local["theta"], local.get("scaling")) == (1e4, None)
    assert (globally["theta"], globally.get("scaling")) == (1e6, "linear")


def test_a_parallel_block_has_one_norm_or_two():
    shared = graph_of(LLAMA_3_8B | {"block": {"kind": "parallel", "norms": "shared"}})
    separate = graph_of(LLAMA_3_8B | {"block": {"kind": "parallel", "norms": "separate"}})
    assert [op.name for op in shared.ops("rms_norm", block="block")] == ["attn_norm"]
    assert [op.name for op in separate.ops("rms_norm", block="block")] == ["attn_norm", "mlp_norm"]
