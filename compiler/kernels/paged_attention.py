"""Attention of a server's running answers on Ascend: torch-npu's op for a cache in blocks.

Fuses    gather of keys and values, scores, softmax, weighted sum.
Applies  to servers for an npu in bf16, with heads of their own and a plain causal mask, in blocks of 16 to 512 tokens
         (npu_fused_infer_attention_score takes multiples of 16). Prompts are PyTorch's.
Cost     a layer and step: reads each sequence's keys and values once, where they are. Separate ops copy them first.
Truth    runtimes/reference/decode_attention.py: paged_attention
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel, LeftAlone

if TYPE_CHECKING:
    from ...spec.document import Spec
    from .kernel import DType

_BLOCK_STEP, _MOST_BLOCK = 16, 512
"""Tokens of a block, as the documents of npu_fused_infer_attention_score have it for bf16."""
_HEAD_STEP, _MOST_HEAD = 16, 512


@dataclass(frozen=True, kw_only=True)
class PagedAttention(Kernel):
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    block_tokens: int

    @property
    def python_side(self) -> str:
        return "npu/paged_attention"

    @property
    def fuses(self) -> str:
        return "attention of one token a sequence to a cache in blocks"

    @property
    def price(self) -> str:
        size = 4 * self.num_kv_heads * self.head_dim * self.number_bytes
        return f"{size:,} more bytes through memory a token of the sequence, layer and step"


def choose_paged_attention(spec: Spec, *, dtype: DType, longest: int, tp: int) -> PagedAttention | LeftAlone:
    """Heads are those of one of `tp` ranks."""
    model, serve = spec.model, spec.serve
    assert serve is not None
    reason = _reason(spec, block_tokens=serve.kv_cache.block_tokens, longest=longest)
    if reason is not None:
        return LeftAlone(reason)
    attention = model.attention
    assert attention.kind != "mla"
    kv_heads = 1 if attention.kind == "mqa" else model.num_kv_heads
    return PagedAttention(
        name="paged_attention",
        template="paged_attention",
        dtype=dtype,
        language="npu",
        has_backward=False,
        num_heads=model.num_heads // tp,
        num_kv_heads=max(1, kv_heads // tp),
        head_dim=model.head_dim,
        scale=model.head_dim**-0.5 if attention.scale is None else attention.scale,
        block_tokens=serve.kv_cache.block_tokens,
    )


def _reason(spec: Spec, *, block_tokens: int, longest: int) -> str | None:
    model = spec.model
    attention = model.attention
    if attention.kind == "mla":
        return "latent attention has keys and values of its own shape"
    if attention.sinks or attention.softcap is not None:
        return "sinks and caps take part in the softmax"
    if model.position.kind == "alibi":
        return "ALiBi adds to the scores"
    if attention.window is not None and attention.window < longest:
        return "windows leave out what a block holds"
    if block_tokens % _BLOCK_STEP or block_tokens > _MOST_BLOCK:
        return f"blocks of {block_tokens} tokens are not a multiple of {_BLOCK_STEP} up to {_MOST_BLOCK}"
    if model.head_dim % _HEAD_STEP or model.head_dim > _MOST_HEAD:
        return f"heads of {model.head_dim} are not a multiple of {_HEAD_STEP} up to {_MOST_HEAD}"
    return None
