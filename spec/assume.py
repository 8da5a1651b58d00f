"""What to take for granted about a program that is not ours, so that a plan can price it as it runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Node
from .units import Flag, Fraction, Positive

Recomputed = Literal[
    "attention", "core_attention", "mlp", "norms", "activations", "half_of_products", "half_of_layers", "nothing"
]


class Assume(Node):
    """How another program does what ours do: a plan with this section prices that program. Null: as ours would."""

    software: Literal["eager", "fsdp", "tuned", "xla"] | None = Field(
        default=None,
        description="Class of the program: plain PyTorch, PyTorch with FSDP, tuned (Megatron, NeMo), or compiled by XLA.",
    )
    attention: Literal["unfused", "flash2", "flash3"] | None = Field(
        default=None, description="Attention kernels: scores in memory, FlashAttention-2, or the best of the device."
    )
    overlap: Flag | None = Field(
        default=None, description="Whether communication of gradients and of tensor parallelism runs beside compute."
    )
    recompute: tuple[Recomputed, ...] | None = Field(
        default=None, description="What `recompute: selective` computes again; null: attention with its projections."
    )
    fused_loss: Flag | None = Field(
        default=None, description="Whether the loss is computed without all logits in memory."
    )
    reduce: Literal["fp32", "bf16"] | None = Field(
        default=None, description="Number format in which gradients are reduced; null: that of the gradients."
    )
    gather: Literal["bf16", "fp8"] | None = Field(
        default=None, description="Number format in which sharded weights are gathered; null: 2 bytes."
    )
    offload: Fraction | None = Field(default=None, description="Share of the activations that is kept in host memory.")
    expert_load: Positive | None = Field(
        default=None,
        description="Tokens that the busiest expert computes over the even share; below 1 tokens are dropped.",
    )
    efficiency: Positive | None = Field(
        default=None, description="Factor on the rate of matrix products; one measured step of the program gives it."
    )
    captured: Flag | None = Field(
        default=None,
        description="Whether a whole step is captured as a graph, so that the host launches nothing in it.",
    )
