"""Small configs of mixtures of experts and of latent attention: name -> transformers' class and its arguments."""

from __future__ import annotations

from typing import Any

_SMALL = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 0.02,  # large, so that a wrong one shows
}
_GQA = {**_SMALL, "num_key_value_heads": 2}
_LATENT = {
    **_SMALL,
    "num_key_value_heads": 6,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "moe_intermediate_size": 28,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
_YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}


def _yarn(**scales: float) -> dict[str, Any]:
    return {"rope_parameters": {**_YARN, "beta_fast": 32, "beta_slow": 1, **scales}}


EXPERT_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {**_GQA, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        {
            **_GQA,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 56,
            "mlp_only_layers": [0],
        },
    ),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {
            **_GQA,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
        },
    ),
    "olmoe": ("OlmoeConfig", {**_GQA, "num_experts": 8, "num_experts_per_tok": 3}),
    "minimax-m2": (
        "MiniMaxM2Config",
        {**_GQA, "head_dim": 16, "num_local_experts": 8, "num_experts_per_tok": 3, "rotary_dim": 8},
    ),
    "gpt-oss": (
        "GptOssConfig",
        {
            **_GQA,
            "num_hidden_layers": 4,
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {**_YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
        },
    ),
    "deepseek-v2": (
        "DeepseekV2Config",
        {
            **_LATENT,
            "q_lora_rank": 18,
            "n_shared_experts": 2,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.0,
            **_yarn(mscale=0.707, mscale_all_dim=0.707),
        },
    ),
    "deepseek-v2-lite": (
        "DeepseekV2Config",
        {**_LATENT, "q_lora_rank": None, "n_shared_experts": 2, "topk_method": "greedy", **_yarn(mscale_all_dim=0.5)},
    ),
    "deepseek-v3": (
        "DeepseekV3Config",
        {
            **_LATENT,
            "q_lora_rank": 18,
            "n_shared_experts": 1,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            **_yarn(mscale=1.0, mscale_all_dim=1.0),
        },
    ),
    "kimi-k2": (
        "DeepseekV3Config",
        {
            **_LATENT,
            "q_lora_rank": 18,
            "n_routed_experts": 12,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 2.827,
            **_yarn(mscale=1.0, mscale_all_dim=1.0),
        },
    ),
}
