"""Attention of pieces of a server's prompts, of several at a time, to a paged cache.

Fuses    rotation of queries and keys, write to the cache, gather of keys and values, scores, softmax, weighted sum.
Applies  to the servers on CPUs that have decode_attention.
Cost     a layer and step: 4 S C H FLOPs a token for the S keys that it sees; keys and values are read once a block of queries.
         The pieces of a step go through linear layers together, as PyTorch's ops, a piece at a time, cannot.
Truth    runtimes/reference/prefill_attention.py: prefill_attention
"""

from __future__ import annotations

from dataclasses import dataclass

from .causal_attention import KEY_BLOCK, QUERY_BLOCK
from .decode_attention import DecodeAttention
from .kernel import Kernel


@dataclass(frozen=True, kw_only=True)
class PrefillAttention(Kernel):
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    has_rope: bool
    has_int8_cache: bool
    """Keys and values are codes of 8 bits, with a scale a token and head."""
    query_block: int = QUERY_BLOCK
    key_block: int = KEY_BLOCK

    @property
    def python_side(self) -> str:
        return f"ops/{self.template}"

    @property
    def num_pointers(self) -> int:
        """Tensors that the C++ function takes."""
        return 8 + 2 * self.has_rope + 2 * self.has_int8_cache

    @property
    def fuses(self) -> str:
        return f"{'rotation, ' if self.has_rope else ''}write to the cache, attention of pieces of several prompts"

    @property
    def price(self) -> str:
        """Copies of rotated queries and keys, and of the sequence's keys and values."""
        rotated = 28 * (self.num_heads + self.num_kv_heads) * self.head_dim * self.has_rope
        row = 2 * self.num_kv_heads * self.head_dim * self.number_bytes
        return f"{rotated + 2 * row:,} more bytes through memory a token and layer"


def prefill_beside(decode: DecodeAttention) -> PrefillAttention:
    """For prompts, what answers have in C++."""
    return PrefillAttention(
        name="prefill_attention",
        template="prefill_attention",
        dtype=decode.dtype,
        language="cpp",
        has_backward=False,
        num_heads=decode.num_heads,
        num_kv_heads=decode.num_kv_heads,
        head_dim=decode.head_dim,
        scale=decode.scale,
        window=decode.window,
        has_rope=decode.has_rope,
        has_int8_cache=decode.has_int8_cache,
    )
