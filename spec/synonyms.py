"""Names that other tools use for fields of ours, so that a message can name ours. Paths without list indices."""

from __future__ import annotations

from .base import Path


def _model(*names: str) -> tuple[Path, ...]:
    return (("model", *names),)


def _train(*names: str) -> tuple[Path, ...]:
    return (("train", *names),)


SYNONYMS: dict[str, tuple[Path, ...]] = {
    # Hugging Face configurations
    "num_hidden_layers": _model("num_layers"),
    "n_layer": _model("num_layers"),
    "n_layers": _model("num_layers"),
    "layers": _model("num_layers"),
    "num_attention_heads": _model("num_heads"),
    "n_head": _model("num_heads"),
    "n_heads": _model("num_heads"),
    "heads": _model("num_heads"),
    "num_key_value_heads": _model("num_kv_heads"),
    "n_kv_heads": _model("num_kv_heads"),
    "kv_heads": _model("num_kv_heads"),
    "n_embd": _model("hidden_size"),
    "d_model": _model("hidden_size"),
    "dim": _model("hidden_size"),
    "d_ff": _model("intermediate_size"),
    "ffn_dim": _model("intermediate_size"),
    "ffn_hidden_size": _model("intermediate_size"),
    "n_inner": _model("intermediate_size"),
    "max_position_embeddings": _model("max_seq_len"),
    "n_positions": _model("max_seq_len"),
    "n_ctx": _model("max_seq_len"),
    "context_length": _model("max_seq_len"),
    "rms_norm_eps": _model("norm", "eps"),
    "layer_norm_eps": _model("norm", "eps"),
    "rope_theta": _model("position", "theta"),
    "rope_scaling": _model("position", "scaling"),
    "sliding_window": _model("attention", "window"),
    "tie_word_embeddings": _model("tie_embeddings"),
    "hidden_act": _model("mlp", "activation"),
    "activation_function": _model("mlp", "activation"),
    "num_local_experts": _model("moe", "num_experts"),
    "num_experts_per_tok": _model("moe", "experts_per_token"),
    "top_k": _model("moe", "experts_per_token"),
    # training loops
    "learning_rate": _train("optimizer", "lr"),
    "batch_size": _train("global_batch"),
    "global_batch_size": _train("global_batch"),
    "max_steps": _train("steps"),
    "train_steps": _train("steps"),
    "num_tokens": _train("tokens"),
    "max_tokens": _train("tokens"),
    "sequence_length": (("train", "seq_len"),),
    "seq_length": (("train", "seq_len"),),
    "max_length": (("train", "seq_len"),),
    "block_size": (("train", "seq_len"),),
    "warmup": _train("schedule", "warmup_steps"),
    "lr_scheduler": _train("schedule"),
    "max_grad_norm": _train("grad_clip"),
    "gradient_clipping": _train("grad_clip"),
    "gradient_accumulation_steps": (("parallel", "grad_accumulation"),),
    "micro_batch_size": (("parallel", "micro_batch"),),
    "dtype": _train("precision"),
    # layouts
    "dp": (("parallel", "dp_replicate"),),
    "data_parallel": (("parallel", "dp_replicate"),),
    "fsdp": (("parallel", "dp_shard"),),
    "tensor_parallel": (("parallel", "tp"),),
    "tensor_parallel_size": (("parallel", "tp"), ("serve", "layout", "tp")),
    "tensor_model_parallel_size": (("parallel", "tp"),),
    "pipeline_parallel": (("parallel", "pp"),),
    "pipeline_parallel_size": (("parallel", "pp"), ("serve", "layout", "pp")),
    "context_parallel": (("parallel", "cp"),),
    "expert_parallel": (("parallel", "ep"),),
    "zero_stage": (("parallel", "zero"),),
    "activation_checkpointing": (("parallel", "recompute"),),
    "gradient_checkpointing": (("parallel", "recompute"),),
    # machines and servers
    "gpu": (("hardware", "accelerator"),),
    "gpus_per_node": (("hardware", "per_node"),),
    "gpus": (("hardware", "per_node"),),
    "num_nodes": (("hardware", "nodes"),),
    "max_model_len": (("serve", "max_seq_len"),),
    "max_num_seqs": (("serve", "layout", "max_batch"),),
    "qps": (("serve", "workload", "requests_per_s"),),
    "rate": (("serve", "workload", "requests_per_s"),),
    "quantization": (("serve", "weights", "dtype"),),
}

VALUE_SYNONYMS: dict[str, str] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "single": "fp32",
    "float8": "fp8",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu_squared": "relu2",
    "squared_relu": "relu2",
    "swish": "silu",
    "interleaved": "interleaved_1f1b",
    "zb": "zero_bubble",
    "rtn": "round_to_nearest",
}
"""Words that other tools use for choices of ours."""
