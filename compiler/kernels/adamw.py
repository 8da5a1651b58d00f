"""AdamW over master weights in two halves.

Fuses    clipping, the moments, the update of the fp32 master weight and its rounding to bf16.
Applies  to programs for one CPU or GPU that train in bf16 with AdamW; C++ and Triton.
Cost     a parameter: reads 14 bytes and writes 12 (weight 2, rest 2, moments 8; gradient 2). Memory 14 bytes, against 18
         of fp32 weights with a bf16 copy and fp32 gradients; 18 as well where micro-batches are accumulated in fp32.
Truth    runtimes/reference/adamw.py: adamw_step
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .add_norm import choose as choose_norm
from .kernel import C_TYPES, TORCH_TYPES, DType, Kernel, LeftAlone
from .tiles import RowTile, stream

if TYPE_CHECKING:
    from .setting import Setting


@dataclass(frozen=True, kw_only=True)
class AdamW(Kernel):
    betas: tuple[float, float]
    eps: float
    grad_dtype: DType
    tiles: RowTile | None = None

    @property
    def fuses(self) -> str:
        return "clipping, moments, update of the fp32 master, rounding to bf16"

    @property
    def spared_bytes(self) -> float:
        """runtimes/reference/adamw.py in its 21 steps moves 174 bytes a parameter, the kernel reads 14 and writes 12."""
        return 148.0

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


def choose(setting: Setting) -> AdamW | LeftAlone:
    optimizer = setting.train.optimizer
    if optimizer.name != "adamw":
        return LeftAlone(f"the optimizer is {optimizer.name}")
    if setting.train.ema_decay is not None:
        return LeftAlone("an average of the weights is taken of fp32 ones, which the kernel keeps in two halves")
    if setting.layout.devices > 1:
        return LeftAlone("PyTorch's fused step takes sharded weights, and reads and writes each number once as well")
    if setting.dtype != "bf16":
        return LeftAlone("in fp32 there is no second copy of the weights to save; PyTorch's own step is one pass, too")
    if setting.is_tpu:
        return LeftAlone("the TPU compiler makes one pass of it as well")
    if setting.cpu_dtype is None and setting.chip is None:
        return LeftAlone(setting.no_compiler)
    chip = setting.chip
    if chip is not None and isinstance(choose_norm(setting), LeftAlone):
        return LeftAlone(
            "without a kernel for residual sum and norm, a bf16 embedding would make the residual stream bf16"
        )
    return AdamW(
        name="adamw",
        template="adamw",
        dtype="bf16",
        language="cpp" if chip is None else "triton",
        chip="" if chip is None else setting.chip_name,
        betas=optimizer.betas,
        eps=optimizer.eps,
        grad_dtype="bf16" if setting.grad_accumulation == 1 else "fp32",
        tiles=None if chip is None else stream(chip),
    )
