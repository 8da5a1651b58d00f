"""Gated activation + the projection after it.

Fuses    split -> activation -> multiply -> linear, from the output of the fused gate and up projection.
Applies  to CPU programs with swiglu or geglu_tanh, without experts.
Cost     a token: reads 2F numbers and writes F, beside the product. Keeps gate and up alone: the active numbers, which
         the weight's gradient needs, are computed again along with the gradient of gate and up.
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
    "geglu_tanh": ("GeGLU with GELU in its tanh form", "gelu(gate)", "gelu_tanh"),
}
"""Name -> its title, its formula, the partial under templates/kernels/cpp/activation/."""


@dataclass(frozen=True, kw_only=True)
class GatedLinear(Kernel):
    eager: str
    """The activation's eager twin."""
    size: int
    title: str
    formula: str
    activation: str
    has_bias: bool

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        return 2 * self.size * self.number_bytes

    @property
    def why(self) -> str:
        return (
            f"It keeps {self.saved_bytes:,} bytes a token for the backward pass, gate and up; the activation is"
            " computed again."
        )


def choose(setting: Setting) -> GatedLinear | None:
    model, dtype = setting.model, setting.cpu_dtype
    if dtype is None or model.moe is not None or model.mlp.activation not in ACTIVATIONS:
        return None
    title, formula, activation = ACTIVATIONS[model.mlp.activation]
    return GatedLinear(
        name=f"{model.mlp.activation}_linear",
        template="gated_linear",
        dtype=dtype,
        is_native=True,
        eager=model.mlp.activation,
        size=model.intermediate_size,
        title=title,
        formula=formula,
        activation=activation,
        has_bias=model.mlp.bias,
    )
