"""Feed-forward blocks: the dense MLP and mixtures of experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Node
from .units import Count, CountOrZero, Elements, Flag, NonNegative, Positive

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh", "clamped_swiglu"]
GATED_ACTIVATIONS: frozenset[str] = frozenset({"swiglu", "geglu", "geglu_tanh", "clamped_swiglu"})


class Mlp(Node):
    """The dense feed-forward block."""

    activation: Activation = Field(
        description="gelu is exact (erf), gelu_tanh its tanh form; swiglu, geglu and their variants have a gate beside the up projection."
    )
    bias: Flag = Field(default=False, description="A bias on the projections.")

    @property
    def is_gated(self) -> bool:
        return self.activation in GATED_ACTIVATIONS


class Router(Node):
    """How tokens choose experts."""

    score: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="What turns router logits into weights."
    )
    normalize: Flag = Field(default=True, description="The chosen experts' weights are divided by their sum.")
    scale: Positive = Field(default=1.0, description="Factor on the weights (DeepSeek-V3: 2.5).")
    groups: Count = Field(default=1, description="Groups of experts; a token first chooses groups (DeepSeek: 8).")
    topk_groups: Count = Field(default=1, description="How many groups a token may choose from.")
    bias: Flag = Field(default=False, description="A bias on the router's projection (gpt-oss).")
    balance: Literal["none", "aux_loss", "bias"] = Field(
        default="aux_loss",
        description="What keeps experts evenly used: a loss, or a bias moved outside the gradient (DeepSeek-V3).",
    )
    aux_loss_weight: NonNegative = Field(default=0.01, description="Weight of the balancing loss.")
    z_loss_weight: NonNegative = Field(
        default=0.0, description="Weight of the squared log-sum-exp of router logits (ST-MoE)."
    )


class Moe(Node):
    """A mixture of experts in place of the dense feed-forward block."""

    num_experts: Count = Field(description="Routed experts a layer.")
    experts_per_token: Count = Field(description="Experts that a token visits.")
    intermediate_size: Elements | None = Field(
        default=None, description="Width of an expert; null: the model's intermediate_size."
    )
    shared_experts: CountOrZero = Field(default=0, description="Experts that every token visits.")
    shared_intermediate_size: Elements | None = Field(
        default=None,
        description="Width of all shared experts together; null: shared_experts times the width of an expert.",
    )
    shared_gate: Flag = Field(default=False, description="A sigmoid gate on the shared expert's output (Qwen2-MoE).")
    every: Count = Field(default=1, description="An MoE block each N layers.")
    first_dense_layers: CountOrZero = Field(
        default=0, description="Layers at the start that stay dense (DeepSeek-V3: 3)."
    )
    bias: Flag = Field(default=False, description="A bias on the experts' projections (gpt-oss).")
    capacity_factor: Positive | None = Field(
        default=None, description="Tokens an expert accepts, as a multiple of the even share; null: dropless."
    )
    router: Router = Field(default_factory=Router, description="How tokens choose experts.")


class RmsNorm(Node):
    """Root-mean-square norm (Zhang 2019)."""

    kind: Literal["rmsnorm"] = Field(description="Root-mean-square norm.")
    eps: Positive = Field(default=1e-5, description="Added to the mean square.")
    unit_offset: Flag = Field(default=False, description="The factor is 1 + weight (Gemma).")


class LayerNorm(Node):
    """Layer norm (Ba 2016)."""

    kind: Literal["layernorm"] = Field(description="Layer norm.")
    eps: Positive = Field(default=1e-5, description="Added to the variance.")
    bias: Flag = Field(default=True, description="A bias beside the weight.")
    unit_offset: Flag = Field(default=False, description="The factor is 1 + weight (Nemotron).")


Norm = Annotated[RmsNorm | LayerNorm, Field(discriminator="kind")]
