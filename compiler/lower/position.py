"""Positions: what the model adds to embeddings, rotates or biases, with every constant worked out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...spec.attention import (
    Alibi,
    DynamicScaling,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)

if TYPE_CHECKING:
    from ...spec.attention import RopeScaling
    from ...spec.model import Model


@dataclass(frozen=True)
class RopeView:
    """One function `name(positions) -> cos, sin`; `scaling` names its partial under templates/pytorch/rope/."""

    name: str
    theta: float
    dims: int
    """How much of a head is rotated."""
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_seq_len: int = 0
    ramp: tuple[float, float] = (0.0, 0.0)
    """yarn: pairs up to the first number are kept, pairs from the second on are divided in full."""
    factors: tuple[float, ...] = ()
    """longrope: the divisor of each frequency."""
    factors_kind: str = ""
    """longrope: `short` or `long`, whichever the program's longest sequence asks for."""
    magnitude: float = 1.0
    """Factor on cos and sin (yarn and longrope call it the attention factor)."""


@dataclass(frozen=True)
class PositionView:
    """How positions reach the model. Exactly one of the four ways, or none of them."""

    kind: str
    rope: RopeView | None = None
    local_rope: RopeView | None = None
    """The other frequencies of sliding-window layers, where the spec gives them."""
    interleaved: bool = False
    rotary_dims: int = 0
    plain_dims: int = 0
    """What is left of a head without rotation."""
    table_rows: int = 0
    """learned: rows of the table."""
    offset: int = 0
    alibi_slopes: tuple[float, ...] = ()

    @property
    def pairs(self) -> str:
        """Which numbers turn together, in words."""
        return "each pair (2i, 2i + 1)" if self.interleaved else f"each pair (i, i + {self.rotary_dims // 2})"

    @property
    def divisors(self) -> tuple[float, ...]:
        return self.rope.factors if self.rope else ()


def lower_position(model: Model, *, longest: int) -> PositionView:
    """`longest` is the longest sequence that the program will see, in tokens."""
    position = model.position
    if isinstance(position, Rope):
        return _lower_rope(model, position, longest=longest)
    if isinstance(position, Alibi):
        return PositionView(kind="alibi", alibi_slopes=alibi_slopes(model.num_heads))
    if isinstance(position, Learned):
        return PositionView(kind="learned", table_rows=model.max_seq_len + position.offset, offset=position.offset)
    return PositionView(kind=position.kind)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """A geometric sequence from 2**(-8/n) (Press 2021); heads beyond a power of two take every other of the next one."""
    n = 2 ** math.floor(math.log2(num_heads))
    first = [2.0 ** (-8.0 * i / n) for i in range(1, n + 1)]
    between = [2.0 ** (-4.0 * i / n) for i in range(1, 2 * (num_heads - n), 2)]
    return tuple(first + between)


def _lower_rope(model: Model, rope: Rope, *, longest: int) -> PositionView:
    head_dim = model.attention.qk_rope_head_dim if model.attention.kind == "mla" else model.head_dim
    dims = rope.rotary_dim or head_dim
    plain = RopeView(name="rope", theta=rope.theta, dims=dims)
    local = None
    if rope.local_theta is not None and getattr(model.attention, "window", None) is not None:
        local = RopeView(name="local_rope", theta=rope.local_theta, dims=dims)
    return PositionView(
        kind="rope",
        rope=_scaled(plain, rope.scaling, model=model, longest=longest),
        local_rope=local,
        interleaved=rope.interleaved,
        rotary_dims=dims,
        plain_dims=head_dim - dims,
    )


def _scaled(rope: RopeView, scaling: RopeScaling | None, *, model: Model, longest: int) -> RopeView:
    match scaling:
        case None:
            return rope
        case LinearScaling():
            return replace(rope, scaling="linear", factor=scaling.factor)
        case DynamicScaling():
            return replace(rope, scaling="dynamic", factor=scaling.factor, original_max_seq_len=model.max_seq_len)
        case Llama3Scaling():
            return replace(
                rope,
                scaling="llama3",
                factor=scaling.factor,
                low_freq_factor=scaling.low_freq_factor,
                high_freq_factor=scaling.high_freq_factor,
                original_max_seq_len=scaling.original_max_seq_len,
            )
        case YarnScaling():
            return _yarn(rope, scaling)
        case LongRopeScaling():
            return _longrope(rope, scaling, max_seq_len=model.max_seq_len, longest=longest)


def _yarn(rope: RopeView, scaling: YarnScaling) -> RopeView:
    """Pairs that turn more than beta_fast times in the original context are kept, those below beta_slow divided."""

    def pair_that_turns(times: float) -> float:
        """i such that times * 2 pi * theta ** (2i / dims) = original context (Peng 2023, equation 17)."""
        return rope.dims * math.log(scaling.original_max_seq_len / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dims - 1)
    return replace(
        rope,
        scaling="yarn",
        factor=scaling.factor,
        ramp=(float(first), float(last if last != first else first + 0.001)),
        original_max_seq_len=scaling.original_max_seq_len,
        magnitude=_yarn_magnitude(scaling),
    )


def _yarn_magnitude(scaling: YarnScaling) -> float:
    """Factor on cos and sin: 0.1 m ln(factor) + 1; DeepSeek divides the one of mscale by that of mscale_all_dim."""

    def magnitude(m: float) -> float:
        return 0.1 * m * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)


def _longrope(rope: RopeView, scaling: LongRopeScaling, *, max_seq_len: int, longest: int) -> RopeView:
    """One set of divisors for the whole program, so that cached keys stay valid as a sequence grows."""
    is_long = longest > scaling.original_max_seq_len
    stretch = max_seq_len / scaling.original_max_seq_len
    magnitude = scaling.attention_factor
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(stretch) / math.log(scaling.original_max_seq_len)) if stretch > 1 else 1.0
    return replace(
        rope,
        scaling="longrope",
        factors=scaling.long_factor if is_long else scaling.short_factor,
        factors_kind="long" if is_long else "short",
        original_max_seq_len=scaling.original_max_seq_len,
        magnitude=magnitude,
    )
