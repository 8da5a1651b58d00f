"""Attention kinds and position encodings. A new kind is a class here and a member of the union at the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Node
from .units import Count, CountOrZero, Elements, Flag, NonNegative, Positive, Tokens


class _HeadsAttention(Node):
    """Softmax attention over heads of equal size; the kinds differ in how many key/value heads there are."""

    window: Tokens | None = Field(
        default=None,
        description="Sliding window: a token attends to itself and the `window - 1` tokens before it; null: to all.",
    )
    global_every: Count | None = Field(
        default=None,
        description="With `window`: each N-th layer, counted from 1, attends to all tokens (Gemma 2: 2, Gemma 3: 6).",
    )
    qkv_bias: Flag = Field(default=False, description="A bias on the query, key and value projections.")
    out_bias: Flag = Field(default=False, description="A bias on the output projection.")
    qk_norm: Literal["head", "full"] | None = Field(
        default=None,
        description="Norm on queries and keys: over each head (Qwen 3), over the full width (OLMo 2), or null for none.",
    )
    softcap: Positive | None = Field(
        default=None, description="Scores become softcap * tanh(score / softcap) (Gemma 2: 50)."
    )
    scale: Positive | None = Field(default=None, description="Factor on the scores; null: head_dim ** -0.5.")
    sinks: Flag = Field(default=False, description="A learned logit a head in the softmax denominator (gpt-oss).")


class MultiHeadAttention(_HeadsAttention):
    """Multi-head attention: as many key/value heads as query heads."""

    kind: Literal["mha"] = Field(description="Multi-head attention.")


class MultiQueryAttention(_HeadsAttention):
    """Multi-query attention: one key/value head for all query heads (Shazeer 2019)."""

    kind: Literal["mqa"] = Field(description="Multi-query attention: one key/value head.")


class GroupedQueryAttention(_HeadsAttention):
    """Grouped-query attention: `num_kv_heads` key/value heads, each shared by a group of query heads (Ainslie 2023)."""

    kind: Literal["gqa"] = Field(description="Grouped-query attention: num_kv_heads key/value heads.")


class LatentAttention(Node):
    """Multi-head latent attention: keys and values from a low-rank latent (DeepSeek-V2, 2024)."""

    kind: Literal["mla"] = Field(description="Multi-head latent attention.")
    q_lora_rank: Elements | None = Field(
        default=None, description="Width of the query latent; null: queries are projected directly."
    )
    kv_lora_rank: Elements = Field(description="Width of the key/value latent, which is what the KV cache holds.")
    qk_nope_head_dim: Elements = Field(description="Size of the part of a query/key head without position.")
    qk_rope_head_dim: Elements = Field(description="Size of the part of a query/key head that is rotated.")
    v_head_dim: Elements = Field(description="Size of a value head.")
    qkv_bias: Flag = Field(default=False, description="A bias on the down projections of queries, keys and values.")
    out_bias: Flag = Field(default=False, description="A bias on the output projection.")
    scale: Positive | None = Field(
        default=None, description="Factor on the scores; null: (nope + rope head dim) ** -0.5."
    )
    latent_norm_eps: Positive = Field(
        default=1e-6, description="Epsilon of the norms on the latents (DeepSeek: 1e-6, whatever the other norms have)."
    )


Attention = Annotated[
    MultiHeadAttention | MultiQueryAttention | GroupedQueryAttention | LatentAttention, Field(discriminator="kind")
]


class LinearScaling(Node):
    """Positions divided by `factor` (Chen 2023)."""

    kind: Literal["linear"] = Field(description="Positions divided by the factor.")
    factor: Positive = Field(description="How many times longer the context becomes.")


class DynamicScaling(Node):
    """NTK-aware scaling of theta with the sequence length."""

    kind: Literal["dynamic"] = Field(description="NTK-aware: theta grows with the sequence length.")
    factor: Positive = Field(description="How many times longer the context becomes.")


class Llama3Scaling(Node):
    """Llama 3.1: low frequencies divided, high ones kept, a smooth passage between."""

    kind: Literal["llama3"] = Field(description="Low frequencies divided by the factor, high ones kept.")
    factor: Positive = Field(description="Divisor of low frequencies.")
    low_freq_factor: Positive = Field(description="Wavelengths above original_max_seq_len / this are divided in full.")
    high_freq_factor: Positive = Field(description="Wavelengths below original_max_seq_len / this are kept.")
    original_max_seq_len: Tokens = Field(description="Context length before the extension.")


class YarnScaling(Node):
    """YaRN (Peng 2023): by parts, with a temperature on the attention."""

    kind: Literal["yarn"] = Field(description="YaRN.")
    factor: Positive = Field(description="How many times longer the context becomes.")
    original_max_seq_len: Tokens = Field(description="Context length before the extension.")
    beta_fast: Positive = Field(default=32.0, description="Rotations above which a frequency is kept.")
    beta_slow: Positive = Field(default=1.0, description="Rotations below which a frequency is divided.")
    attention_factor: Positive | None = Field(
        default=None, description="Factor on cos and sin; null: 0.1 ln(factor) + 1."
    )
    mscale: NonNegative | None = Field(default=None, description="DeepSeek's scale of the attention factor.")
    mscale_all_dim: NonNegative | None = Field(
        default=None, description="DeepSeek's second scale, applied to the softmax scale."
    )
    truncate: Flag = Field(default=True, description="Round the corrected dimensions to whole ones.")


class LongRopeScaling(Node):
    """LongRoPE (Ding 2024): a factor for each frequency, one set for short and one for long contexts."""

    kind: Literal["longrope"] = Field(description="LongRoPE.")
    short_factor: tuple[Positive, ...] = Field(description="Divisor of each frequency within the original context.")
    long_factor: tuple[Positive, ...] = Field(description="Divisor of each frequency beyond the original context.")
    original_max_seq_len: Tokens = Field(description="Context length before the extension.")
    attention_factor: Positive | None = Field(
        default=None, description="Factor on cos and sin; null: from the ratio of the lengths."
    )


RopeScaling = Annotated[
    LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling, Field(discriminator="kind")
]


class Rope(Node):
    """Rotary position embedding (Su 2021)."""

    kind: Literal["rope"] = Field(description="Rotary position embedding.")
    theta: Positive = Field(default=10_000.0, description="Base of the frequencies.")
    local_theta: Positive | None = Field(
        default=None, description="Base on sliding-window layers (Gemma 3: 10000); null: theta."
    )
    rotary_dim: Elements | None = Field(default=None, description="How much of a head is rotated; null: all of it.")
    interleaved: Flag = Field(
        default=False, description="Rotate pairs (0,1), (2,3)… (GPT-J) instead of halves (Llama)."
    )
    scaling: RopeScaling | None = Field(default=None, description="Extension of the context beyond what was trained.")


class Alibi(Node):
    """Attention with linear biases (Press 2021)."""

    kind: Literal["alibi"] = Field(description="A bias on the scores that falls linearly with distance.")


class Learned(Node):
    """A learned vector for each position, added to the embedding."""

    kind: Literal["learned"] = Field(description="A learned vector for each position.")
    offset: CountOrZero = Field(default=0, description="First row of the table that is used (OPT: 2).")


class Sinusoidal(Node):
    """Fixed sines and cosines added to the embedding (Vaswani 2017)."""

    kind: Literal["sinusoidal"] = Field(description="Fixed sines and cosines added to the embedding.")


class NoPosition(Node):
    """No position encoding at all."""

    kind: Literal["none"] = Field(description="No position encoding.")


Position = Annotated[Rope | Alibi | Learned | Sinusoidal | NoPosition, Field(discriminator="kind")]
