"""Attention of a server's running answers: one token a sequence, to a paged cache.

Fuses    rotation of queries and keys, write to the cache, gather of keys and values, scores, softmax, weighted sum.
Applies  to the servers of serving.py: in C++ where causal_attention would apply in it, in Triton with any rotary positions
         and caps. Prompts have prefill_attention in C++, and are PyTorch's beside Triton.
Cost     a layer and step: reads each sequence's keys and values once, where they are. Separate ops copy them first.
Truth    runtimes/reference/decode_attention.py: decode_attention
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .causal_attention import reason_in_cpp, reason_in_triton
from .kernel import BYTES, Kernel, LeftAlone
from .serving_tiles import SplitTile, split_tile
from .tiles import power_of_two

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .chips import Chip
    from .kernel import DType

_CHUNK = 256
"""Keys: scores of a group stay in the L1 cache, and a sequence of a thousand tokens is work for several threads."""
_AHEAD = 48
"""Keys whose rows are fetched before they are read, and values with them: 8 sequences of 512 tokens then take 0.6 of the time in a loop of this kernel alone, and 0.83 in a model."""
_REGISTERS = 32
"""Of AVX-512; those of a block of queries, of what they weigh and of a key are to fit."""


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(Kernel):
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    has_rope: bool
    chunk: int = _CHUNK
    ahead: int = _AHEAD
    softcap: float | None = None
    rotary_dims: int = 0
    interleaved: bool = False
    has_int8_cache: bool = False
    """Keys and values are codes of 8 bits, with a scale a token and head."""
    tiles: SplitTile | None = None

    @property
    def python_side(self) -> str:
        return f"ops/{self.template}{'_gpu' if self.is_triton else ''}"

    @property
    def width(self) -> int:
        """Of a token's queries, keys and values."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def head_block(self) -> int:
        """Of a head in Triton, whose blocks are powers of two."""
        return power_of_two(max(self.head_dim, 16))

    @property
    def queries(self) -> int:
        """Query heads of a group that a key is loaded for once."""
        group, most = self.num_heads // self.num_kv_heads, max(1, _REGISTERS * 3 // 4 // (self.head_dim // 16))
        turns = -(-group // most)
        return -(-group // turns)

    @property
    def num_pointers(self) -> int:
        """Tensors that the C++ function takes."""
        return 7 + 2 * self.has_rope + 2 * self.has_int8_cache

    @property
    def fuses(self) -> str:
        return f"{'rotation, ' if self.has_rope else ''}write to the cache, attention of one token a sequence"

    @property
    def price(self) -> str:
        numbers = 2 * self.num_kv_heads * self.head_dim
        if self.has_int8_cache:  # a copy of the codes is read and written, and numbers are made of it
            return f"{numbers * (2 + 2 * self.number_bytes):,} more bytes through memory a token of the sequence, layer and step"
        return f"{2 * numbers * self.number_bytes:,} more bytes through memory a token of the sequence, layer and step"


def choose_decode_attention(
    spec: Spec, *, dtype: DType, longest: int, chip: Chip | None = None, chip_name: str = ""
) -> DecodeAttention | LeftAlone:
    """In Triton for a `chip`, else in C++."""
    model = spec.model
    reason = reason_in_cpp(model) if chip is None else reason_in_triton(model)
    if reason is not None:
        return LeftAlone(reason)
    attention = model.attention
    assert attention.kind != "mla"
    window, position = attention.window, model.position
    kv_heads = 1 if attention.kind == "mqa" else model.num_kv_heads
    return DecodeAttention(
        name="decode_attention",
        template="decode_attention",
        dtype=dtype,
        language="cpp" if chip is None else "triton",
        chip=chip_name,
        has_backward=False,
        num_heads=model.num_heads,
        num_kv_heads=kv_heads,
        head_dim=model.head_dim,
        scale=model.head_dim**-0.5 if attention.scale is None else attention.scale,
        window=window if window is not None and window < longest else None,
        has_rope=position.kind == "rope",
        softcap=attention.softcap,
        rotary_dims=(position.rotary_dim or model.head_dim) if position.kind == "rope" else 0,
        interleaved=position.kind == "rope" and position.interleaved,
        has_int8_cache=spec.serve is not None and spec.serve.kv_cache.dtype == "int8",
        tiles=None
        if chip is None
        else split_tile(
            kv_heads=kv_heads,
            group=model.num_heads // kv_heads,
            head_dim=model.head_dim,
            number_bytes=BYTES[dtype],
            chip=chip,
        ),
    )
