"""Gated activation of the feed-forward block.

Fuses    split -> activation -> multiply, on the output of the fused gate and up projection.
Applies  to CPU programs with swiglu or geglu_tanh, without experts.
Cost     a token: reads 2F numbers and writes F; keeps its input alone, as the activation is computed again.
Truth    runtimes/reference/activation.py: swiglu, geglu_tanh
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel

if TYPE_CHECKING:
    from .setting import Setting

ACTIVATIONS = {
    "swiglu": ("SwiGLU", "silu(gate)", "silu"),
    "geglu_tanh": ("GeGLU, GELU in its tanh form,", "gelu(gate)", "gelu_tanh"),
}
"""Name -> its title, its formula, the partial under templates/kernels/cpp/activation/."""


@dataclass(frozen=True, kw_only=True)
class GatedActivation(Kernel):
    size: int
    title: str
    formula: str
    activation: str

    @property
    def class_name(self) -> str:
        return {"swiglu": "Swiglu", "geglu_tanh": "GegluTanh"}[self.name]

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        return 2 * self.size * self.number_bytes

    @property
    def why(self) -> str:
        return (
            f"It keeps its input alone for the backward pass, {self.saved_bytes:,} bytes a token, and computes the"
            " activation again."
        )


def choose(setting: Setting) -> GatedActivation | None:
    model, dtype = setting.model, setting.cpu_dtype
    if dtype is None or model.moe is not None or model.mlp.activation not in ACTIVATIONS:
        return None
    title, formula, activation = ACTIVATIONS[model.mlp.activation]
    return GatedActivation(
        name=model.mlp.activation,
        template="gated_activation",
        dtype=dtype,
        is_native=True,
        size=model.intermediate_size,
        title=title,
        formula=formula,
        activation=activation,
    )
