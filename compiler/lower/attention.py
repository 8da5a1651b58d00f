"""Attention over heads (mha, mqa, gqa): projections, masks, and which way the scores are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.attention import GroupedQueryAttention, MultiHeadAttention, MultiQueryAttention
    from ...spec.model import Model

    HeadsAttention = MultiHeadAttention | MultiQueryAttention | GroupedQueryAttention


@dataclass(frozen=True)
class AttentionView:
    """`kind` names the partial under templates/pytorch/attention/."""

    kind: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    q_size: int
    """Width of all query heads, H*C."""
    kv_size: int
    """Width of all key heads, K*C."""
    qkv_size: int
    qkv_bias: bool
    out_bias: bool
    qk_norm: str | None
    has_window: bool
    """Whether the spec gives a sliding window."""
    window: int | None
    """Tokens a sliding-window layer sees; None if that is all of them in every sequence of this program."""
    global_every: int | None
    scale: float | None
    """Factor on the scores; None: head_dim ** -0.5, as scaled_dot_product_attention has it."""
    softcap: float | None
    sinks: bool

    @property
    def is_grouped(self) -> bool:
        return self.num_kv_heads != self.num_heads

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def is_eager(self) -> bool:
        """Whether scores are computed step by step: scaled_dot_product_attention has no cap and no sink."""
        return self.softcap is not None or self.sinks

    @property
    def eager_reason(self) -> str:
        """What scaled_dot_product_attention lacks."""
        return " and no ".join([*(["cap"] if self.softcap else []), *(["sinks"] if self.sinks else [])])

    @property
    def eager_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale


def lower_attention(model: Model, attention: HeadsAttention, *, longest: int, tp: int = 1) -> AttentionView:
    """`longest` is the longest sequence that the program will see: a window that holds all of it is no window.

    With `tp` ranks the heads are those of one rank; where there are fewer key/value heads than ranks, it has one.
    """
    num_heads = model.num_heads // tp
    num_kv_heads = max(1, (1 if attention.kind == "mqa" else model.num_kv_heads) // tp)
    q_size, kv_size = num_heads * model.head_dim, num_kv_heads * model.head_dim
    window, global_every = attention.window, attention.global_every
    if window is not None and window >= longest:
        window = None
    return AttentionView(
        kind="of_a_rank" if tp > 1 else attention.kind,
        hidden_size=model.hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=model.head_dim,
        q_size=q_size,
        kv_size=kv_size,
        qkv_size=q_size + 2 * kv_size,
        qkv_bias=attention.qkv_bias,
        out_bias=attention.out_bias,
        qk_norm=attention.qk_norm,
        has_window=attention.window is not None,
        window=window,
        global_every=global_every,
        scale=attention.scale,
        softcap=attention.softcap,
        sinks=attention.sinks,
    )
