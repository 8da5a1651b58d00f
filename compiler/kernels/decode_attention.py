"""Attention of a server's running answers: one token a sequence, to a paged cache.

Fuses    rotation of queries and keys, write to the cache, gather of keys and values, scores, softmax, weighted sum.
Applies  to the servers of serving.py: in C++ where causal_attention would apply in it, in Triton with any rotary positions
         and caps. Prompts have prefill_attention in C++, and are PyTorch's beside Triton. Pallas on TPUs, without the rotation
         and the write: heads of whole vectors, blocks of whole tiles, one window or none for all layers.
Cost     a layer and step: reads each sequence's keys and values once, where they are. Separate ops copy them first.
Truth    runtimes/reference/decode_attention.py: decode_attention
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .causal_attention import reason_in_cpp, reason_in_triton
from .kernel import BYTES, Kernel, LeftAlone
from .serving_tiles import SplitTile, split_tile
from .tiles import power_of_two
from .tpus import LANES, TpuPages, tpu_pages

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .chips import Chip
    from .kernel import DType
    from .tpus import Tpu

_CHUNK = 64
"""Keys: those of a head and chunk stay in the L1 cache while the next ones come, and a sequence of some hundred tokens is work for several threads."""
_REGISTERS = 24
"""Of AVX-512's 32, for sums of a block of queries; the rest hold keys or values, and a query."""


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(Kernel):
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    has_rope: bool
    chunk: int = _CHUNK
    softcap: float | None = None
    rotary_dims: int = 0
    interleaved: bool = False
    has_int8_cache: bool = False
    """Keys and values are codes of 8 bits, with a scale a token and head."""
    tiles: SplitTile | TpuPages | None = None

    @property
    def python_side(self) -> str:
        if self.is_pallas:
            return f"xla/{self.template}"
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
    def _sums(self) -> int:
        """Vectors at a time. In fp32 each is made of four: a head's products added up one after the other lose bits that count there."""
        return _REGISTERS if self.dtype == "bf16" else _REGISTERS // 4

    @property
    def queries(self) -> int:
        """Query heads of a group that keys and values are loaded for once."""
        group = self.num_heads // self.num_kv_heads
        turns = -(-group // (self._sums // 2))
        return -(-group // turns)

    @property
    def vectors(self) -> int:
        """Of sums of each of them, at a time."""
        return next(v for v in (4, 2, 1) if v * self.queries <= self._sums and self.head_dim % (16 * v) == 0)

    @property
    def chains(self) -> int:
        """Sums that each of these is made of, where registers are left: several additions are under way, and fewer follow one another."""
        return next(n for n in (4, 2, 1) if n * self.vectors * self.queries <= _REGISTERS)

    @property
    def num_pointers(self) -> int:
        """Tensors that the C++ function takes."""
        return 7 + 2 * self.has_rope + 2 * self.has_int8_cache

    @property
    def fuses(self) -> str:
        if self.is_pallas:
            return "gather of keys and values, attention of one token a sequence"
        return f"{'rotation, ' if self.has_rope else ''}write to the cache, attention of one token a sequence"

    @property
    def price(self) -> str:
        numbers = 2 * self.num_kv_heads * self.head_dim
        if self.has_int8_cache:  # a copy of the codes is read and written, and numbers are made of it
            return f"{numbers * (2 + 2 * self.number_bytes):,} more bytes through memory a token of the sequence, layer and step"
        tokens = "a token that a sequence may have" if self.is_pallas else "a token of the sequence"
        return f"{2 * numbers * self.number_bytes:,} more bytes through memory {tokens}, layer and step"


def choose_decode_attention(
    spec: Spec,
    *,
    dtype: DType,
    longest: int,
    chip: Chip | None = None,
    tpu: Tpu | None = None,
    chip_name: str = "",
    tp: int = 1,
) -> DecodeAttention | LeftAlone:
    """In Triton for a `chip`, in Pallas for a `tpu`, else in C++."""
    model = spec.model
    if tpu is not None:
        reason = _reason_in_pallas(spec, dtype=dtype)
    else:
        reason = reason_in_cpp(model) if chip is None else reason_in_triton(model)
    if reason is not None:
        return LeftAlone(reason)
    attention = model.attention
    assert attention.kind != "mla"
    window, position = attention.window, model.position
    kv_heads = (1 if attention.kind == "mqa" else model.num_kv_heads) // tp
    kernel = DecodeAttention(
        name="decode_attention",
        template="decode_attention",
        dtype=dtype,
        language="pallas" if tpu is not None else "cpp" if chip is None else "triton",
        chip=chip_name,
        has_backward=False,
        num_heads=model.num_heads // tp,
        num_kv_heads=kv_heads,
        head_dim=model.head_dim,
        scale=model.head_dim**-0.5 if attention.scale is None else attention.scale,
        window=window if window is not None and window < longest else None,
        has_rope=position.kind == "rope",
        softcap=attention.softcap,
        rotary_dims=(position.rotary_dim or model.head_dim) if position.kind == "rope" else 0,
        interleaved=position.kind == "rope" and position.interleaved,
        has_int8_cache=spec.serve is not None and spec.serve.kv_cache.dtype == "int8",
    )
    return replace(kernel, tiles=_tiles(kernel, spec, longest=longest, chip=chip, tpu=tpu))


def _tiles(
    kernel: DecodeAttention, spec: Spec, *, longest: int, chip: Chip | None, tpu: Tpu | None
) -> SplitTile | TpuPages | None:
    sizes = {
        "kv_heads": kernel.num_kv_heads,
        "group": kernel.num_heads // kernel.num_kv_heads,
        "head_dim": kernel.head_dim,
        "number_bytes": BYTES[kernel.dtype],
    }
    if tpu is not None:
        assert spec.serve is not None
        return tpu_pages(**sizes, block_tokens=spec.serve.kv_cache.block_tokens, longest=longest, tpu=tpu)
    return None if chip is None else split_tile(**sizes, chip=chip)


def _reason_in_pallas(spec: Spec, *, dtype: DType) -> str | None:
    """Rotation, norms of queries and keys, and the write to the cache are PyTorch's there."""
    model, attention = spec.model, spec.model.attention
    assert spec.serve is not None
    tile = 32 // BYTES[dtype]
    if attention.kind == "mla":
        return "latent attention has keys and values of its own shape"
    if attention.sinks:
        return "sinks take part in the softmax"
    if model.position.kind == "alibi":
        return "ALiBi adds to the scores"
    if attention.window is not None and attention.global_every is not None:
        return "windows differ from layer to layer"
    if model.head_dim % LANES:
        return f"heads of {model.head_dim} are no whole vectors of {LANES}, and the chip's memory would pad each"
    if spec.serve.kv_cache.block_tokens % tile:
        return f"blocks of {spec.serve.kv_cache.block_tokens} tokens are no whole tiles of {tile}"
    return None
