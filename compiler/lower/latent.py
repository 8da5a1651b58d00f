"""Latent attention (mla): widths of the latents, the factor on the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...spec.attention import Rope, YarnScaling

if TYPE_CHECKING:
    from ...spec.attention import LatentAttention
    from ...spec.model import Model


@dataclass(frozen=True)
class LatentView:
    """The view of templates/pytorch/attention/mla.py.j2. A query or key head is `nope` numbers without position and
    `rope` rotated ones; the latter are the same for all key heads."""

    kind: str
    hidden_size: int
    num_heads: int
    q_rank: int | None
    """Width of the query latent; None: queries are projected directly."""
    kv_rank: int
    """Width of the key/value latent."""
    nope: int
    rope: int
    v_head_dim: int
    qkv_bias: bool
    out_bias: bool
    scale: float
    """Factor on the scores."""
    norm_eps: float

    has_window = False
    window = None
    global_every = None
    is_eager = False
    is_grouped = False

    @property
    def num_kv_heads(self) -> int:
        """Every head has keys and values of its own."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Of a query or key."""
        return self.nope + self.rope

    @property
    def cached_size(self) -> int:
        """Numbers of a token in the KV cache of a layer: the latent, and the rotated part of the key."""
        return self.kv_rank + self.rope


def lower_latent(model: Model, attention: LatentAttention, *, tp: int = 1) -> LatentView:
    """With `tp` ranks the heads are those of one rank; it has the whole latents."""
    return LatentView(
        kind=attention.kind,
        hidden_size=model.hidden_size,
        num_heads=model.num_heads // tp,
        q_rank=attention.q_lora_rank,
        kv_rank=attention.kv_lora_rank,
        nope=attention.qk_nope_head_dim,
        rope=attention.qk_rope_head_dim,
        v_head_dim=attention.v_head_dim,
        qkv_bias=attention.qkv_bias,
        out_bias=attention.out_bias,
        scale=_scale(model, attention),
        norm_eps=attention.latent_norm_eps,
    )


def _scale(model: Model, attention: LatentAttention) -> float:
    """head size ** -0.5; with yarn's mscale_all_dim m times (0.1 m ln(factor) + 1) ** 2, once for the query and once for the key."""
    scale = attention.scale or (attention.qk_nope_head_dim + attention.qk_rope_head_dim) ** -0.5
    scaling = model.position.scaling if isinstance(model.position, Rope) else None
    if not isinstance(scaling, YarnScaling) or not scaling.mscale_all_dim or scaling.factor <= 1:
        return scale
    return scale * (0.1 * scaling.mscale_all_dim * math.log(scaling.factor) + 1.0) ** 2
