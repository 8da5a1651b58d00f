"""Causal attention with rotary positions.

Fuses    split_heads, rope x 2, attention: from the output of the fused qkv projection to the input of the output one.
Applies  where every layer has the same mask and frequencies; no sink, ALiBi or norm between projection and scores, no
         sequences that are cut. C++ on one CPU: whole heads rotated by halves, no cap, heads of a multiple of 16. Triton on
         GPUs: any rotary positions and caps, ranks of tp with their heads. Pallas on TPUs, without the rotation: also queries and
         keys that are normed, and sequences whose tokens are swapped for heads.
Cost     a token: 4 T C H FLOPs forward and 2.5 times that backward, halved by the mask; reads qkv once a pass. Keeps
         qkv, the output, and one figure a head. PyTorch's own kernel for CPUs computes hidden scores too, and its
         backward pass reaches a tenth of the rate of its matrix products (benchmarks/README.md).
Truth    runtimes/reference/attention.py: causal_attention
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import BYTES, Kernel, LeftAlone
from .tiles import AttentionTiles, attention_tiles, power_of_two
from .tpus import LANES, TpuAttentionTiles, tpu_attention_tiles

if TYPE_CHECKING:
    from ...spec.model import Model
    from .setting import Setting

QUERY_BLOCK, KEY_BLOCK = 64, 128
"""Queries that share what is read of keys, and keys of a block. Of 64 x 64 to 128 x 128 these were the fastest by a few percent. Scores exist for
sixteen queries at a time (8 KiB in fp32), as few waste least on the diagonal; for all 64 in the backward pass (32 KiB), whose sums over queries cost more."""

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
    softcap: float | None = None
    rotary_dims: int = 0
    interleaved: bool = False
    longest: int = 0
    """Tokens of a sequence."""
    tiles: AttentionTiles | TpuAttentionTiles | None = None

    @property
    def python_side(self) -> str:
        if self.is_pallas:
            return "xla/causal_attention"
        return "ops/causal_attention" if self.is_triton else super().python_side

    @property
    def fuses(self) -> str:
        parts = ["rotation of queries and keys"] if self.has_rope and not self.is_pallas else []
        return ", ".join([*parts, "scores", *(["cap"] if self.softcap else []), "softmax", "weighted sum"])

    @property
    def width(self) -> int:
        """Of a token's queries, keys and values."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def reads_tokens(self) -> bool:
        """Whether a kernel for TPUs reads heads where they lie in a token, which takes heads of whole vectors."""
        return self.head_dim % LANES == 0

    @property
    def head_block(self) -> int:
        """Of a head in Triton, whose blocks are powers of two."""
        return power_of_two(max(self.head_dim, 16))

    @property
    def pair_block(self) -> int:
        return power_of_two(max(1, self.rotary_dims // 2))

    @property
    def spared_bytes(self) -> float:
        """Rotation in separate ops: four products in fp32, two sums, a join and a cast take 28 bytes a number more than one
        pass in bf16. Scores in memory, where caps ask for separate ops, are written and read by five."""
        heads = 0 if self.is_pallas else self.num_heads + self.num_kv_heads
        scores = self.num_heads * self.longest * (6 * 4 + 4 * self.number_bytes) if self.softcap else 0
        return float((28 + 3 * self.number_bytes) * heads * self.rotary_dims + scores)

    @property
    def spared_kept_bytes(self) -> float:
        """Scores and weights, where caps ask for separate ops."""
        return float(2 * self.number_bytes * self.num_heads * self.longest) if self.softcap else 0.0

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        numbers = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return numbers * self.number_bytes + 4 * self.num_heads

    @property
    def why(self) -> str:
        is_rotated = not self.is_native and self.has_rope
        qkv = "qkv, rotated" if is_rotated else "qkv as the projection left it"
        return f"It keeps {self.saved_bytes:,} bytes a token for the backward pass: {qkv}, the output, and one figure a head."


def choose(setting: Setting) -> CausalAttention | LeftAlone:
    model, dtype, language = setting.model, setting.dtype, setting.language
    reason = _reason(setting)
    if reason is not None:
        return LeftAlone(reason)
    attention, position = model.attention, model.position
    assert attention.kind != "mla"
    assert dtype is not None
    assert language is not None
    window = attention.window
    ranks = setting.layout.tp * (setting.layout.cp if setting.is_tpu else 1)  # tokens are swapped for heads there
    heads, kv_heads = model.num_heads // ranks, max(1, model.num_kv_heads // ranks)
    rotary = (position.rotary_dim or model.head_dim) if position.kind == "rope" else 0
    return CausalAttention(
        name="causal_attention",
        template="causal_attention",
        dtype=dtype,
        language=language,
        chip=setting.chip_name,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=model.head_dim,
        scale=model.head_dim**-0.5 if attention.scale is None else attention.scale,
        window=window if window is not None and window < setting.longest else None,
        has_rope=position.kind == "rope",
        softcap=attention.softcap,
        rotary_dims=rotary,
        interleaved=position.kind == "rope" and position.interleaved,
        longest=setting.longest,
        tiles=_tiles(setting, heads=heads, kv_heads=kv_heads, rotary=rotary),
    )


def _tiles(setting: Setting, *, heads: int, kv_heads: int, rotary: int) -> AttentionTiles | TpuAttentionTiles | None:
    size, number_bytes = setting.model.head_dim, BYTES[setting.dtype or "fp32"]
    if setting.tpu is not None:
        return tpu_attention_tiles(size, longest=setting.longest, number_bytes=number_bytes, tpu=setting.tpu)
    if setting.chip is None:
        return None
    return attention_tiles(
        heads=heads + kv_heads,
        head_dim=size,
        pairs=rotary // 2,
        copied=kv_heads * size if rotary == size else (heads + 2 * kv_heads) * size,
        number_bytes=number_bytes,
        chip=setting.chip,
    )


def _reason(setting: Setting) -> str | None:
    """What stands against the kernel."""
    if setting.language is None:
        return setting.no_compiler
    if setting.is_tpu:
        return _of_tpu(setting.model)
    attention = setting.model.attention
    if setting.chip is not None and setting.chip.is_npu:
        return "torch-npu takes scaled_dot_product_attention as a whole, on the matrix units"
    if setting.chip is not None and setting.dtype == "fp32":
        return "products in exact fp32 do not run on matrix units, and only small blocks fit into registers"
    if setting.layout.devices > 1 and attention.kind != "mla" and attention.softcap is not None:
        return "plans of several devices count capped scores as kept"
    if setting.layout.cp > 1:
        return "sequences are cut, and keys travel between ranks (runtimes/pytorch/parallel/context.py)"
    return _of_model(setting.model) or (None if setting.chip is not None else _of_cpp(setting.model))


def _of_tpu(model: Model) -> str | None:
    """Rotation and norms of queries and keys are PyTorch's; what is refused on TPUs altogether is in compiler/lower/spmd.py."""
    attention = model.attention
    if attention.kind != "mla" and attention.window is not None and attention.global_every is not None:
        return "windows differ from layer to layer"
    return None


def reason_in_cpp(model: Model) -> str | None:
    """Why C++ does not know a model's attention."""
    return _of_model(model) or _of_cpp(model)


def reason_in_triton(model: Model) -> str | None:
    """Why Triton does not know it."""
    return _of_model(model)


def _of_model(model: Model) -> str | None:
    attention, position = model.attention, model.position
    if attention.kind == "mla":
        return "latent attention has keys and values of its own shape"
    if attention.sinks:
        return "sinks take part in the softmax"
    if attention.qk_norm is not None:
        return "queries and keys are normed before they are rotated"
    if position.kind == "alibi":
        return "ALiBi adds to the scores"
    if attention.window is not None and attention.global_every is not None:
        return "windows differ from layer to layer"
    if model.head_dim > 256:
        return f"heads of {model.head_dim} do not fit beside their scores"
    return None


def _of_cpp(model: Model) -> str | None:
    attention, position = model.attention, model.position
    assert attention.kind != "mla"
    if attention.softcap is not None:
        return "there is no cap in C++"
    if model.head_dim % VECTOR != 0:
        return f"heads of {model.head_dim} are no whole vectors of {VECTOR}"
    if position.kind == "rope":
        is_whole = position.rotary_dim is None or position.rotary_dim == model.head_dim
        if not is_whole or position.interleaved:
            return "C++ rotates whole heads by halves"
    return None
