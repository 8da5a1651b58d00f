"""Gated activation, in C++ along with the projection after it.

Fuses    split -> activation -> multiply [-> linear], from the output of the fused gate and up projection.
Applies  to programs with swiglu or geglu_tanh, without experts: C++ on one CPU, Triton in every layout (the projection
         may be cut, and is PyTorch's). Not to TPUs: what a kernel gives is in memory until the backward pass (docs/tpu.md). On NPUs swiglu is torch-npu's own op, which has a backward pass, and geglu_tanh Triton.
Cost     a token: reads 2F numbers and writes F. C++ keeps gate and up alone: the active numbers, which the weight's gradient
         needs, are computed again along with the gradient of gate and up.
Truth    runtimes/reference/activation.py: swiglu, geglu_tanh
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel, LeftAlone
from .tiles import RowTile, stream

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
    has_products: bool = False
    """Whether products are those of kernels/linear.py."""
    tiles: RowTile | None = None

    @property
    def python_side(self) -> str:
        if self.language == "npu":
            return "npu/gated"
        if not self.has_backward:
            return "ops/gated_forward"
        return "ops/gated" if self.is_triton else super().python_side

    @property
    def fuses(self) -> str:
        return f"{self.formula} * up" + (", projection" if self.is_native and self.has_backward else "")

    @property
    def spared_bytes(self) -> float:
        """The active gate is neither written nor read again."""
        return 2.0 * self.size * self.number_bytes

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        return 2 * self.size * self.number_bytes

    @property
    def why(self) -> str:
        if not self.has_backward:
            return "It reads gate and up once."
        return (
            f"It keeps {self.saved_bytes:,} bytes a token for the backward pass, gate and up; the activation is"
            " computed again."
        )


def choose(setting: Setting) -> GatedLinear | LeftAlone:
    model, dtype, chip = setting.model, setting.dtype, setting.chip
    if setting.is_tpu:
        return LeftAlone("the TPU compiler makes it a part of the products around it, and keeps nothing of it")
    if setting.cpu_dtype is None and chip is None:
        return LeftAlone(setting.no_compiler)
    if model.moe is not None:
        return LeftAlone("experts compute theirs with matrices an expert")
    if model.mlp.activation not in ACTIVATIONS:
        return LeftAlone(f"there is no kernel for {model.mlp.activation}")
    assert dtype is not None
    is_npu_op = chip is not None and chip.is_npu and model.mlp.activation == "swiglu"
    title, formula, activation = ACTIVATIONS[model.mlp.activation]
    size = model.intermediate_size // setting.layout.tp
    return GatedLinear(
        name=f"{model.mlp.activation}_linear" if chip is None else model.mlp.activation,
        template="gated_linear" if chip is None else "gated",
        dtype=dtype,
        language="cpp" if chip is None else "npu" if is_npu_op else "triton",
        chip="" if chip is None else setting.chip_name,
        eager=model.mlp.activation,
        size=size,
        title=title,
        formula=formula,
        activation=activation,
        has_bias=model.mlp.bias and chip is None,
        has_products=setting.cpu_dtype == "bf16",
        tiles=None if chip is None else stream(chip),
    )
