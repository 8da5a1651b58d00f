"""AdamW over master weights in two halves.

Fuses    clipping, the moments, the update of the fp32 master weight and its rounding to bf16.
Applies  to CPU programs that train in bf16 with AdamW.
Cost     a parameter: reads 14 bytes and writes 12 (weight 2, rest 2, moments 8; gradient 2). Memory 14 bytes, against 18
         of fp32 weights with a bf16 copy and fp32 gradients; 18 as well where micro-batches are accumulated in fp32.
Truth    runtimes/reference/adamw.py: adamw_step
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import C_TYPES, TORCH_TYPES, DType, Kernel

if TYPE_CHECKING:
    from .setting import Setting


@dataclass(frozen=True, kw_only=True)
class AdamW(Kernel):
    betas: tuple[float, float]
    eps: float
    grad_dtype: DType

    @property
    def accumulates(self) -> bool:
        """Whether the gradients of several micro-batches are added up, which is done in fp32."""
        return self.grad_dtype == "fp32"

    @property
    def grad_ctype(self) -> str:
        return C_TYPES[self.grad_dtype]

    @property
    def torch_grad_dtype(self) -> str:
        return TORCH_TYPES[self.grad_dtype]


def choose(setting: Setting) -> AdamW | None:
    if setting.cpu_dtype != "bf16":
        return None
    optimizer = setting.train.optimizer
    if optimizer.name != "adamw":
        return None
    return AdamW(
        name="adamw",
        template="adamw",
        dtype="bf16",
        is_native=True,
        betas=optimizer.betas,
        eps=optimizer.eps,
        grad_dtype="bf16" if setting.grad_accumulation == 1 else "fp32",
    )
