"""Causal attention with rotary positions.

Fuses    split_heads, rope x 2, attention: from the output of the fused qkv projection to the input of the output one.
Applies  to CPU programs where every layer has the same mask and frequencies; whole heads rotated by halves, or none;
         no cap, sink, ALiBi or norm between projection and scores; a head size that is a multiple of 16.
Cost     a token: 4 T C H FLOPs forward and 2.5 times that backward, halved by the mask; reads qkv once a pass. Keeps
         qkv, the output, and one figure a head. PyTorch's own kernel for CPUs computes hidden scores too, and its
         backward pass reaches a tenth of the rate of its matrix products (benchmarks/README.md).
Truth    runtimes/reference/attention.py: causal_attention
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel

if TYPE_CHECKING:
    from ...spec.model import Model
    from .setting import Setting

QUERY_BLOCK, KEY_BLOCK = 64, 128
"""Queries and keys whose scores exist at a time: 32 KiB in fp32, so that they stay in cache. Of 64 x 64 to 128 x 128 these
were the fastest by a few percent; few queries at a time waste least on the diagonal, where half of a block is hidden."""

VECTOR = 16
"""Numbers of a vector: heads are whole vectors."""


@dataclass(frozen=True, kw_only=True)
class CausalAttention(Kernel):
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    has_rope: bool
    query_block: int = QUERY_BLOCK
    key_block: int = KEY_BLOCK

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        numbers = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return numbers * self.number_bytes + 4 * self.num_heads

    @property
    def why(self) -> str:
        return (
            f"It keeps {self.saved_bytes:,} bytes a token for the backward pass: qkv as the projection left it, the"
            " output, and one figure a head."
        )


def choose(setting: Setting) -> CausalAttention | None:
    model, dtype = setting.model, setting.cpu_dtype
    if dtype is None or not _applies(model):
        return None
    attention = model.attention
    assert attention.kind != "mla"
    window = attention.window
    return CausalAttention(
        name="causal_attention",
        template="causal_attention",
        dtype=dtype,
        is_native=True,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        scale=model.head_dim**-0.5 if attention.scale is None else attention.scale,
        window=window if window is not None and window < setting.longest else None,
        has_rope=model.position.kind == "rope",
    )


def _applies(model: Model) -> bool:
    attention, position = model.attention, model.position
    if attention.kind == "mla" or attention.softcap is not None or attention.sinks or attention.qk_norm is not None:
        return False
    if attention.window is not None and attention.global_every is not None:
        return False
    if model.head_dim % VECTOR != 0 or position.kind == "alibi":
        return False
    if position.kind != "rope":
        return True
    is_whole = position.rotary_dim is None or position.rotary_dim == model.head_dim
    return is_whole and not position.interleaved
