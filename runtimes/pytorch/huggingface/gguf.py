"""A GGUF file as a Hugging Face folder: config.json, tokenizer.json, float32 weights. The ordinary import reads on from there.

    python -m llmc.runtimes.pytorch.huggingface.gguf MODEL.gguf HF_DIR

Quantised blocks are dequantised; what they stand for is exact in float32. Llama-like architectures are known, since
their tensors map one to one. What the file says and this module does not know is refused: a guess would give a model
that only seems to work.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from ...common.errors import RunError, run_program
from .files import TensorWriter, write_json
from .gguf_tokenizer import build_tokenizer, describe

_USE_SAFETENSORS = "import the same model's safetensors checkpoint instead"

_MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF architecture -> Hugging Face model type."""

_GLOBAL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"
"""No weight: what each rotary frequency is divided by."""


@dataclass(frozen=True)
class Metadata:
    """The key-value part of a GGUF file."""

    fields: dict[str, Any]
    arch: str

    def get(self, key: str, default: Any = None) -> Any:
        return self.fields.get(key.replace("{arch}", self.arch), default)

    def number(self, key: str, default: float | None = None) -> Any:
        value = self.get(key, default)
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            shown = "lacks" if value is None else f"has {str(value)[:40]} for"
            raise RunError(f"the GGUF file {shown} {key.replace('{arch}', self.arch)}", help=_USE_SAFETENSORS)
        return value


def gguf_to_huggingface(file: Path, out: Path) -> None:
    """Write config.json, weights in float32, tokenizer.json and tokenizer_config.json to `out`.

    Raises RunError for a file that is damaged, of an unknown architecture, or with an unknown tokenizer.
    """
    try:
        reader = gguf.GGUFReader(file)
        fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    except (ValueError, OSError, LookupError, OverflowError, TypeError) as problem:
        raise RunError(f"{file} is no GGUF file that can be read: {problem}", help="fetch the file again") from problem
    meta = Metadata(fields, arch=str(fields.get("general.architecture")))
    if meta.arch not in _MODEL_TYPES:
        known = ", ".join(sorted(_MODEL_TYPES))
        raise RunError(f"{file} is a {meta.arch}; known GGUF architectures: {known}", help=_USE_SAFETENSORS)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    tokenizer = build_tokenizer(fields)
    config = _config(meta, tensors)

    writer = TensorWriter(out, save=save_file)
    for name, tensor in tensors.items():
        if name != _ROPE_FACTORS:
            writer.add(_name(name), _values(tensor, config=config))
    writer.finish()
    write_json(out / "config.json", config)
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", describe(fields))


def _config(meta: Metadata, tensors: dict[str, Any]) -> dict[str, Any]:
    heads, width = meta.number("{arch}.attention.head_count"), meta.number("{arch}.embedding_length")
    head_dim = meta.number("{arch}.attention.key_length", width // max(1, heads))
    if meta.number("{arch}.rope.dimension_count", head_dim) != head_dim:
        raise RunError("the GGUF file rotates a part of each head", help=_USE_SAFETENSORS)
    if meta.get("{arch}.rope.scaling.type", "none") != "none" or meta.get("{arch}.attention.sliding_window"):
        raise RunError("the GGUF file states a rotary scaling or a sliding window", help=_USE_SAFETENSORS)
    if "token_embd.weight" not in tensors:
        raise RunError("the GGUF file has no tensor token_embd.weight", help="fetch the file again")
    theta = _decimal(meta.number("{arch}.rope.freq_base", 10_000.0))
    model_type = _MODEL_TYPES[meta.arch]
    return {
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": meta.number("{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.number("{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": meta.number("{arch}.feed_forward_length"),
        "max_position_embeddings": meta.number("{arch}.context_length"),
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
        "hidden_act": "silu",
        **({"attention_bias": "blk.0.attn_q.bias" in tensors} if model_type != "qwen2" else {}),
        "rms_norm_eps": _decimal(meta.number("{arch}.attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_scaling": _scaling(tensors, theta=theta, head_dim=head_dim),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",
    }


def _decimal(value: float) -> float:
    """GGUF holds a float32; its shortest decimal form is what the author wrote."""
    return float(str(np.float32(value)))


def _scaling(tensors: dict[str, Any], *, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Llama 3's scaling, recognised by the divisors that it gives; GGUF holds those and not its parameters."""
    if _ROPE_FACTORS not in tensors:
        return None
    divisors = np.asarray(tensors[_ROPE_FACTORS].data, dtype=np.float64).reshape(-1)
    parameters = {
        "rope_type": "llama3",
        "factor": _decimal(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(divisors, _llama3_divisors(parameters, theta=theta, head_dim=head_dim), rtol=1e-5):
        raise RunError("the GGUF file scales its rotary frequencies in an unknown way", help=_USE_SAFETENSORS)
    return parameters


def _llama3_divisors(parameters: dict[str, Any], *, theta: float, head_dim: int) -> list[float]:
    """What Llama 3.1 divides each frequency by: 1 above high_freq_factor turns, `factor` below low_freq_factor."""
    low, high, factor = parameters["low_freq_factor"], parameters["high_freq_factor"], parameters["factor"]
    divisors = []
    for pair in range(0, head_dim, 2):
        turns = parameters["original_max_position_embeddings"] / (2 * math.pi * theta ** (pair / head_dim))
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1.0 / (kept + (1.0 - kept) / factor))
    return divisors


def _name(stored: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = stored.rpartition(".")
    block, _, rest = stem.partition(".")
    if block == "blk":
        layer, _, part = rest.partition(".")
        if part in _LAYER:
            return f"model.layers.{layer}.{_LAYER[part]}.{kind}"
    elif stem in _GLOBAL:
        return f"{_GLOBAL[stem]}.{kind}"
    raise RunError(f"the GGUF file has a tensor {stored} that a llama-like model lacks", help=_USE_SAFETENSORS)


def _values(tensor: Any, *, config: dict[str, Any]) -> np.ndarray:
    """A tensor in float32, [out, in], with rows of queries and keys in Hugging Face's order."""
    try:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    except (NotImplementedError, ValueError, KeyError) as problem:
        raise RunError(f"{tensor.name} cannot be dequantised: {problem}", help=_USE_SAFETENSORS) from problem
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    part = tensor.name.split(".")[-2]
    if config["model_type"] == "llama" and part in heads:
        return _halves_from_pairs(values, num_heads=heads[part], head_dim=config["head_dim"])
    return np.ascontiguousarray(values)


def _halves_from_pairs(values: np.ndarray, *, num_heads: int, head_dim: int) -> np.ndarray:
    """GGUF's llama rotates neighbouring pairs, Hugging Face's the two halves of a head: reorder the rows of each head."""
    shape = values.shape
    if shape[0] != num_heads * head_dim:
        raise RunError(f"{shape[0]} rows for {num_heads} heads of {head_dim}", help="fetch the file again")
    pairs = values.reshape(num_heads, head_dim // 2, 2, *shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(shape))


if __name__ == "__main__":
    run_program(lambda: gguf_to_huggingface(Path(sys.argv[1]), Path(sys.argv[2])))
