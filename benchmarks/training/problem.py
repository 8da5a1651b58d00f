"""What both sides of train_step.py train on: the same first weights and the same batches."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VOCAB, SEQ_LEN = 32_000, 512
LR, BETAS, EPS, WEIGHT_DECAY, CLIP, NORM_EPS = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0, 1e-5
_TEXT_BYTES = 8 << 20


@dataclass(frozen=True)
class Shape:
    """A Llama: RMSNorm, SwiGLU, rotary positions, no biases, embedding and head apart."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int


SHAPES = {"134m": Shape(768, 12, 12, 2048), "39m": Shape(384, 8, 6, 1024)}
"""By millions of parameters."""


class Batches:
    """Text of the standard library, two bytes a token: what the loader of a generated program yields."""

    def __init__(self, batch: int) -> None:
        raw = np.frombuffer(_text(), dtype=np.uint16).astype(np.int64)
        self._tokens, self._batch, self._random = raw % VOCAB, batch, np.random.default_rng(0)

    def __next__(self) -> np.ndarray:
        """Windows [B, T + 1]."""
        starts = self._random.integers(0, len(self._tokens) - SEQ_LEN - 1, self._batch)
        return np.stack([self._tokens[start : start + SEQ_LEN + 1] for start in starts])


def _text() -> bytes:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)[:_TEXT_BYTES]
    return text[: len(text) // 2 * 2]


def write_first_weights(path: Path, shape: Shape) -> None:
    """fp32, under the canonical names."""
    torch.manual_seed(0)
    hidden, feed_forward = shape.hidden, shape.feed_forward
    weights = {"embed.weight": _matrix(VOCAB, hidden), "head.weight": _matrix(VOCAB, hidden)}
    weights["norm.weight"] = torch.ones(hidden)
    for layer in range(shape.layers):
        at = f"layers.{layer}"
        weights[f"{at}.attn_norm.weight"] = torch.ones(hidden)
        weights[f"{at}.mlp_norm.weight"] = torch.ones(hidden)
        weights[f"{at}.attn.qkv.weight"] = _matrix(3 * hidden, hidden)
        weights[f"{at}.attn.out.weight"] = _matrix(hidden, hidden)
        weights[f"{at}.mlp.gate_up.weight"] = _matrix(2 * feed_forward, hidden)
        weights[f"{at}.mlp.down.weight"] = _matrix(hidden, feed_forward)
    save_file(weights, path)


def as_llama(path: Path, shape: Shape) -> dict[str, Tensor]:
    """The first weights under the names of transformers' LlamaForCausalLM."""
    ours = load_file(path)
    theirs = {"model.embed_tokens.weight": ours["embed.weight"], "lm_head.weight": ours["head.weight"]}
    theirs["model.norm.weight"] = ours["norm.weight"]
    for layer in range(shape.layers):
        at, to = f"layers.{layer}", f"model.layers.{layer}"
        theirs[f"{to}.input_layernorm.weight"] = ours[f"{at}.attn_norm.weight"]
        theirs[f"{to}.post_attention_layernorm.weight"] = ours[f"{at}.mlp_norm.weight"]
        for name, part in zip("qkv", ours[f"{at}.attn.qkv.weight"].chunk(3), strict=True):
            theirs[f"{to}.self_attn.{name}_proj.weight"] = part
        theirs[f"{to}.self_attn.o_proj.weight"] = ours[f"{at}.attn.out.weight"]
        for name, part in zip(("gate", "up"), ours[f"{at}.mlp.gate_up.weight"].chunk(2), strict=True):
            theirs[f"{to}.mlp.{name}_proj.weight"] = part
        theirs[f"{to}.mlp.down_proj.weight"] = ours[f"{at}.mlp.down.weight"]
    return theirs


def as_litgpt(path: Path, shape: Shape) -> dict[str, Tensor]:
    """The first weights under the names of LitGPT's GPT, whose products of queries, keys and values are one as ours are."""
    ours = load_file(path)
    theirs = {"transformer.wte.weight": ours["embed.weight"], "lm_head.weight": ours["head.weight"]}
    theirs["transformer.ln_f.weight"] = ours["norm.weight"]
    for layer in range(shape.layers):
        at, to = f"layers.{layer}", f"transformer.h.{layer}"
        theirs[f"{to}.norm_1.weight"] = ours[f"{at}.attn_norm.weight"]
        theirs[f"{to}.norm_2.weight"] = ours[f"{at}.mlp_norm.weight"]
        theirs[f"{to}.attn.qkv.weight"] = ours[f"{at}.attn.qkv.weight"]
        theirs[f"{to}.attn.proj.weight"] = ours[f"{at}.attn.out.weight"]
        for name, part in zip(("fc_1", "fc_2"), ours[f"{at}.mlp.gate_up.weight"].chunk(2), strict=True):
            theirs[f"{to}.mlp.{name}.weight"] = part
        theirs[f"{to}.mlp.proj.weight"] = ours[f"{at}.mlp.down.weight"]
    return theirs


def _matrix(rows: int, cols: int) -> Tensor:
    return torch.randn(rows, cols) * 0.02
