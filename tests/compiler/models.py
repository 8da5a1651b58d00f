"""Models, machines and graphs that tests of the compiler share. Dimensions are those of the published configurations."""

from __future__ import annotations

from typing import Any

from llmc.compiler.frontend.model import build_model
from llmc.compiler.ir.graph import Graph
from llmc.compiler.pipeline import run_passes
from llmc.compiler.topology.machine import Machine, machine_of
from llmc.spec.hardware import Hardware
from llmc.spec.model import Model
from llmc.spec.training import Train

LLAMA_3_8B: dict[str, Any] = {
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
LLAMA_3_70B = LLAMA_3_8B | {"hidden_size": 8192, "num_layers": 80, "num_heads": 64, "intermediate_size": 28672}
GPT2: dict[str, Any] = {
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
FALCON_7B: dict[str, Any] = {
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
GEMMA_2_9B: dict[str, Any] = {
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
DEEPSEEK_V3: dict[str, Any] = {
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
GPT_OSS_20B: dict[str, Any] = {
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
MODELS = {
    "llama-3-8b": LLAMA_3_8B,
    "gpt2": GPT2,
    "falcon-7b": FALCON_7B,
    "gemma-2-9b": GEMMA_2_9B,
    "deepseek-v3": DEEPSEEK_V3,
    "gpt-oss-20b": GPT_OSS_20B,
}

H100: dict[str, Any] = {
    "name": "h100-sxm-80g",
    "kind": "gpu",
    "architecture": "hopper",
    "memory_gib": 79.65,
    "memory_gb_s": 3350.0,
    "peak_tflops": {"bf16": 989.0, "fp8": 1978.0},
    "intra_node": {"link": "NVLink4", "gb_s": 450.0, "domain": 8},
    "inter_node": {"link": "InfiniBand", "gb_s": 50.0},
    "per_node": 8,
    "tdp_w": 700,
}


def graph_of(fields: dict[str, Any], *, name: str = "model") -> Graph:
    """As the frontend makes it, up to the logits."""
    return build_model(Model.model_validate(fields), name=name)


def training_graph(fields: dict[str, Any], *, seq_len: int = 4096, **train: Any) -> Graph:
    """With the loss, after all passes."""
    stage = {"objective": "causal_lm", "steps": 10, "seq_len": seq_len, "global_batch": 8} | train
    return run_passes(build_model(Model.model_validate(fields), name="model", train=Train.model_validate(stage)))


def h100s(count: int, **changes: Any) -> Machine:
    """A machine of `count` H100, eight to a node."""
    per_node = min(8, count)
    return machine_of(Hardware(accelerator=H100 | changes, nodes=count // per_node, per_node=per_node))  # pyright: ignore[reportArgumentType]
