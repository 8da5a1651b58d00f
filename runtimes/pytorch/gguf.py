"""A GGUF file as a Hugging Face folder: config.json, tokenizer.json, float32 weights. The ordinary import reads on from there.

Quantised blocks are dequantised; what they stand for is exact in float32. Llama-like architectures are known, since
their tensors map one to one. A tokenizer's pre-tokenizer is a name in GGUF: an unknown one is refused, because a
guess would give other token ids and a model that only seems to work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from ..common.errors import RunError
from .weights import SINGLE

if TYPE_CHECKING:
    from pathlib import Path

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

_GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    "{digits}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*before: pre_tokenizers.PreTokenizer, use_regex: bool = True) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*before, byte_level]) if before else byte_level


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    pattern = Regex(_GPT4_SPLIT.replace("{digits}", digits))
    return _byte_level(pre_tokenizers.Split(pattern, behavior="isolated"), use_regex=False)


_PRE_TOKENIZERS = {
    "gpt-2": lambda: _byte_level(),
    "smollm": lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "qwen2": lambda: _split(""),
    "llama-bpe": lambda: _split("{1,3}"),
}
"""`tokenizer.ggml.pre` -> how text is cut before byte-pair encoding."""

_CONTROL, _USER_DEFINED = 3, 4


@dataclass(frozen=True)
class _Metadata:
    """The key-value part of a GGUF file."""

    fields: dict[str, Any]
    arch: str

    def get(self, key: str, default: Any = None) -> Any:
        return self.fields.get(key.replace("{arch}", self.arch), default)

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise RunError(f"the GGUF file lacks {key.replace('{arch}', self.arch)}", help=_USE_SAFETENSORS)
        return value


def gguf_to_huggingface(file: Path, out: Path) -> None:
    """Write config.json, model.safetensors (float32), tokenizer.json and tokenizer_config.json to `out`.

    Raises RunError for a file that is damaged, of an unknown architecture, or with an unknown tokenizer.
    """
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError, OverflowError) as error:
        raise RunError(f"{file} is no GGUF file that can be read: {error}", help="fetch the file again") from error
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    meta = _Metadata(fields, arch=str(fields.get("general.architecture")))
    if meta.arch not in _MODEL_TYPES:
        known = ", ".join(sorted(_MODEL_TYPES))
        raise RunError(f"{file} is a {meta.arch}; known GGUF architectures: {known}", help=_USE_SAFETENSORS)

    tokenizer = _tokenizer(meta)
    names = {tensor.name for tensor in reader.tensors}
    if "rope_freqs.weight" in names:
        raise RunError(f"{file} scales its rotary frequencies by a table", help=_USE_SAFETENSORS)
    weights = {_name(tensor.name): _values(tensor, meta) for tensor in reader.tensors}

    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / SINGLE, metadata={"format": "pt"})
    _write_json(out / "config.json", _config(meta, is_tied="output.weight" not in names))
    tokenizer.save(str(out / "tokenizer.json"))
    _write_json(out / "tokenizer_config.json", _tokenizer_config(meta))


def _config(meta: _Metadata, *, is_tied: bool) -> dict[str, Any]:
    if meta.get("{arch}.rope.scaling.type", "none") != "none":
        raise RunError("the GGUF file states a rotary scaling", help=_USE_SAFETENSORS)
    heads = meta.need("{arch}.attention.head_count")
    width = meta.need("{arch}.embedding_length")
    return {
        "architectures": [f"{_MODEL_TYPES[meta.arch].capitalize()}ForCausalLM"],
        "model_type": _MODEL_TYPES[meta.arch],
        "hidden_size": width,
        "num_hidden_layers": meta.need("{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.get("{arch}.attention.head_count_kv", heads),
        "head_dim": meta.get("{arch}.attention.key_length", meta.get("{arch}.rope.dimension_count", width // heads)),
        "intermediate_size": meta.need("{arch}.feed_forward_length"),
        "max_position_embeddings": meta.need("{arch}.context_length"),
        "vocab_size": len(meta.need("tokenizer.ggml.tokens")),
        "hidden_act": "silu",
        # GGUF holds a float32; its shortest decimal form is what the author wrote
        "rms_norm_eps": float(str(np.float32(meta.need("{arch}.attention.layer_norm_rms_epsilon")))),
        "rope_theta": float(str(np.float32(meta.get("{arch}.rope.freq_base", 10_000.0)))),
        "tie_word_embeddings": is_tied,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
    }


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


def _values(tensor: Any, meta: _Metadata) -> np.ndarray:
    """A tensor in float32, [out, in], with rows of queries and keys in Hugging Face's order."""
    values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    heads = {
        "attn_q": meta.need("{arch}.attention.head_count"),
        "attn_k": meta.get("{arch}.attention.head_count_kv", meta.need("{arch}.attention.head_count")),
    }
    part = tensor.name.split(".")[-2]
    if meta.arch == "llama" and part in heads:
        return _halves_from_pairs(values, num_heads=heads[part])
    return np.ascontiguousarray(values)


def _halves_from_pairs(values: np.ndarray, *, num_heads: int) -> np.ndarray:
    """GGUF's llama rotates neighbouring pairs, Hugging Face's the two halves of a head: reorder the rows of each head."""
    shape = values.shape
    pairs = values.reshape(num_heads, shape[0] // num_heads // 2, 2, *shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(shape))


def _tokenizer(meta: _Metadata) -> Tokenizer:
    kind, pre = meta.need("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre", "unnamed")
    if kind != "gpt2":
        raise RunError(f"the GGUF file has a {kind} tokenizer; known: gpt2 (byte-level BPE)", help=_USE_SAFETENSORS)
    if pre not in _PRE_TOKENIZERS:
        known = ", ".join(sorted(_PRE_TOKENIZERS))
        raise RunError(f"the GGUF file names the pre-tokenizer {pre}; known: {known}", help=_USE_SAFETENSORS)
    tokens, types = meta.need("tokenizer.ggml.tokens"), meta.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ", 1)) for merge in meta.need("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    added = {_CONTROL: tokenizer.add_special_tokens, _USER_DEFINED: tokenizer.add_tokens}
    for token, token_type in zip(tokens, types, strict=False):
        if token_type in added:
            added[token_type]([AddedToken(token, special=token_type == _CONTROL, normalized=False)])
    return tokenizer


def _tokenizer_config(meta: _Metadata) -> dict[str, Any]:
    tokens = meta.need("tokenizer.ggml.tokens")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        index = meta.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None and 0 <= index < len(tokens):
            config[role] = tokens[index]
    if (template := meta.get("tokenizer.chat_template")) is not None:
        config["chat_template"] = template
    return config


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
