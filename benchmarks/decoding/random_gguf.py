"""A GGUF file of random weights in a published shape, for speed alone: llama.cpp and `llmc import` read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np


@dataclass(frozen=True)
class Shape:
    """A Llama with an embedding and a head of its own."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int = 2048

    @property
    def model(self) -> str:
        """`model:` of a spec."""
        return (
            f"{{family: llama, hidden_size: {self.hidden}, num_layers: {self.layers}, num_heads: {self.heads},"
            f" num_kv_heads: {self.kv_heads}, intermediate_size: {self.feed_forward}, vocab_size: {self.vocabulary},"
            f" max_seq_len: {self.context}}}"
        )


TINYLLAMA = Shape(2048, 22, 32, 4, 5632, 32_000)
"""TinyLlama-1.1B (Zhang 2024)."""


def write_random_gguf(path: Path, shape: Shape) -> None:
    """In F16. Its tokens are numbers with names: nobody is to read what it says."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["t", "0", *(f"t{number}" for number in range(shape.vocabulary - 2))])
    writer.add_token_types([1] * shape.vocabulary)
    writer.add_token_merges(["t 0"])  # llama.cpp wants one
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random, head_dim = np.random.default_rng(0), shape.hidden // shape.heads

    def matrix(name: str, rows: int, columns: int) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.hidden, np.float32))

    matrix("token_embd", shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        at = f"blk.{layer}"
        norm(f"{at}.attn_norm")
        matrix(f"{at}.attn_q", shape.hidden, shape.hidden)
        matrix(f"{at}.attn_k", shape.kv_heads * head_dim, shape.hidden)
        matrix(f"{at}.attn_v", shape.kv_heads * head_dim, shape.hidden)
        matrix(f"{at}.attn_output", shape.hidden, shape.hidden)
        norm(f"{at}.ffn_norm")
        matrix(f"{at}.ffn_gate", shape.feed_forward, shape.hidden)
        matrix(f"{at}.ffn_up", shape.feed_forward, shape.hidden)
        matrix(f"{at}.ffn_down", shape.hidden, shape.feed_forward)
    norm("output_norm")
    matrix("output", shape.vocabulary, shape.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
