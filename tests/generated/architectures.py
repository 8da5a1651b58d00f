"""Small models that together use every feature of the templates: name -> fields of `model` that differ from TINY."""

from __future__ import annotations

from typing import Any

LLAMA3 = {"kind": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 32}
YARN = {"kind": "yarn", "factor": 4.0, "original_max_seq_len": 32}
LONGROPE = {
    "kind": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 8.0],
    "original_max_seq_len": 32,
}
MLA = {"kind": "mla", "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10}
LAYERNORM = {"kind": "layernorm"}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama3": {"position": {"kind": "rope", "theta": 500000.0, "scaling": LLAMA3}},
    "linear": {"position": {"kind": "rope", "scaling": {"kind": "linear", "factor": 2.0}}},
    "dynamic": {"position": {"kind": "rope", "scaling": {"kind": "dynamic", "factor": 2.0}}},
    "yarn": {"position": {"kind": "rope", "scaling": YARN}},
    "longrope": {"position": {"kind": "rope", "scaling": LONGROPE}},
    "mistral": {"attention": {"kind": "gqa", "window": 16}},
    "wide-window": {"attention": {"kind": "gqa", "window": 4096}},
    "qwen2": {"attention": {"kind": "gqa", "qkv_bias": True}, "tie_embeddings": True},
    "qwen3": {"attention": {"kind": "gqa", "qk_norm": "head"}},
    "olmo2": {"attention": {"kind": "gqa", "qk_norm": "full"}},
    "gemma": {
        "embedding": {"scale": "sqrt_hidden_size"},
        "mlp": {"activation": "geglu_tanh"},
        "norm": {"kind": "rmsnorm", "unit_offset": True},
        "tie_embeddings": True,
    },
    "gemma2": {
        "attention": {"kind": "gqa", "window": 16, "global_every": 2, "softcap": 50.0, "scale": 0.3},
        "block": {"kind": "sequential", "norms": "sandwich"},
        "embedding": {"scale": "sqrt_hidden_size"},
        "head": {"softcap": 30.0},
        "mlp": {"activation": "geglu_tanh"},
        "norm": {"kind": "rmsnorm", "unit_offset": True},
        "tie_embeddings": True,
    },
    "gemma3": {
        "num_layers": 6,
        "attention": {"kind": "gqa", "window": 16, "global_every": 6, "qk_norm": "head", "scale": 0.0625},
        "position": {"kind": "rope", "theta": 1e6, "local_theta": 1e4, "scaling": {"kind": "linear", "factor": 8.0}},
        "block": {"kind": "sequential", "norms": "sandwich"},
        "norm": {"kind": "rmsnorm", "unit_offset": True},
    },
    "gemma3-short": {
        "attention": {"kind": "gqa", "window": 512, "global_every": 2},
        "position": {"kind": "rope", "theta": 1e6, "local_theta": 1e4},
    },
    "all-local": {"attention": {"kind": "gqa", "window": 16}, "position": {"kind": "rope", "local_theta": 100.0}},
    "sinks": {
        "attention": {
            "kind": "gqa",
            "window": 16,
            "global_every": 2,
            "sinks": True,
            "qkv_bias": True,
            "out_bias": True,
        },
        "mlp": {"activation": "clamped_swiglu", "bias": True},
    },
    "gpt2": {
        "attention": {"kind": "mha", "qkv_bias": True, "out_bias": True},
        "num_kv_heads": 4,
        "mlp": {"activation": "gelu_tanh", "bias": True},
        "norm": LAYERNORM,
        "position": {"kind": "learned"},
        "tie_embeddings": True,
    },
    "opt": {
        "attention": {"kind": "mha", "qkv_bias": True, "out_bias": True},
        "num_kv_heads": 4,
        "mlp": {"activation": "relu", "bias": True},
        "norm": LAYERNORM,
        "position": {"kind": "learned", "offset": 2},
    },
    "gpt-j": {
        "attention": {"kind": "mha"},
        "num_kv_heads": 4,
        "block": {"kind": "parallel", "norms": "shared"},
        "head": {"bias": True},
        "mlp": {"activation": "gelu_tanh", "bias": True},
        "norm": LAYERNORM,
        "position": {"kind": "rope", "rotary_dim": 8, "interleaved": True},
    },
    "neox": {
        "attention": {"kind": "mha", "qkv_bias": True, "out_bias": True},
        "num_kv_heads": 4,
        "block": {"kind": "parallel", "norms": "separate"},
        "mlp": {"activation": "gelu", "bias": True},
        "norm": LAYERNORM,
        "position": {"kind": "rope", "rotary_dim": 4},
    },
    "falcon": {
        "attention": {"kind": "mqa"},
        "num_kv_heads": 1,
        "block": {"kind": "parallel", "norms": "shared"},
        "mlp": {"activation": "gelu"},
        "norm": LAYERNORM,
        "tie_embeddings": True,
    },
    "bloom": {
        "attention": {"kind": "mha", "qkv_bias": True, "out_bias": True},
        "num_kv_heads": 4,
        "embedding": {"norm": True},
        "mlp": {"activation": "gelu_tanh", "bias": True},
        "norm": LAYERNORM,
        "position": {"kind": "alibi"},
        "tie_embeddings": True,
    },
    "local-alibi": {
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 8,
        "attention": {"kind": "gqa", "window": 16, "global_every": 2},
        "position": {"kind": "alibi"},
        "norm": {"kind": "layernorm", "bias": False},
    },
    "capped-alibi": {"attention": {"kind": "gqa", "softcap": 20.0}, "position": {"kind": "alibi"}},
    "post-norm": {
        "attention": {"kind": "mha"},
        "num_kv_heads": 4,
        "block": {"kind": "sequential", "norms": "post"},
        "mlp": {"activation": "relu2"},
        "norm": LAYERNORM,
        "position": {"kind": "sinusoidal"},
    },
    "no-position": {
        "position": {"kind": "none"},
        "mlp": {"activation": "silu"},
        "tie_embeddings": True,
        "head": {"bias": True},
    },
    "geglu": {"mlp": {"activation": "geglu"}, "embedding": {"scale": 2.0}},
    "mixtral": {"moe": {"num_experts": 4, "experts_per_token": 2, "router": {"z_loss_weight": 0.001}}},
    "qwen2-moe": {
        "attention": {"kind": "gqa", "qkv_bias": True},
        "moe": {
            "num_experts": 8,
            "experts_per_token": 3,
            "intermediate_size": 24,
            "shared_experts": 1,
            "shared_intermediate_size": 40,
            "shared_gate": True,
            "router": {"normalize": False},
        },
    },
    "gpt-oss": {
        "attention": {"kind": "gqa", "window": 16, "global_every": 2, "sinks": True, "qkv_bias": True},
        "mlp": {"activation": "clamped_swiglu"},
        "moe": {"num_experts": 4, "experts_per_token": 2, "bias": True, "router": {"bias": True}},
    },
    "switch": {
        "mlp": {"activation": "relu", "bias": True},
        "moe": {"num_experts": 4, "experts_per_token": 1, "every": 2, "capacity_factor": 1.25},
    },
    "deepseek-v2": {
        "attention": MLA,
        "position": {"kind": "rope", "interleaved": True},
        "moe": {
            "num_experts": 8,
            "experts_per_token": 3,
            "intermediate_size": 24,
            "shared_experts": 2,
            "first_dense_layers": 1,
            "router": {"normalize": False, "groups": 4, "topk_groups": 2, "scale": 2.0},
        },
    },
    "deepseek-v3": {
        "attention": MLA | {"q_lora_rank": 20, "qkv_bias": True},
        "position": {"kind": "rope", "interleaved": True, "scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
        "moe": {
            "num_experts": 8,
            "experts_per_token": 3,
            "intermediate_size": 24,
            "shared_experts": 1,
            "first_dense_layers": 1,
            "router": {"score": "sigmoid", "groups": 4, "topk_groups": 2, "scale": 2.5, "balance": "bias"},
        },
    },
    "latent": {"attention": MLA, "norm": LAYERNORM},
}
