"""Linear layers of CPU programs that train in bf16: their three products, in C++.

Fuses    nothing: with vectors of bf16 it multiplies faster than oneDNN, which PyTorch calls.
Applies  to CPU programs that train in bf16, to layers whose sizes are multiples of 16; at run time, to many rows on a CPU that has such
         vectors and no matrix unit (AMX), which oneDNN uses.
Cost     6 K N FLOPs a token. Copies what stands right in a product, in parts that stay in a cache, and rows for the gradient of weights.
Truth    torch.nn.functional.linear
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel, LeftAlone

if TYPE_CHECKING:
    from .setting import Setting

_COLUMNS = 64
"""Of a panel."""


@dataclass(frozen=True, kw_only=True)
class Linear(Kernel):
    panel_bytes: int = 1 << 19
    """Of a packed panel: half of what the L2 cache of a core holds (Zen 4)."""

    @property
    def fuses(self) -> str:
        return "nothing: products of many rows in tiles that fill the registers"

    @property
    def depth(self) -> int:
        """Numbers that are summed at a time."""
        return self.panel_bytes // _COLUMNS // self.number_bytes


def choose(setting: Setting) -> Linear | LeftAlone:
    if not setting.is_cpu:
        return LeftAlone("PyTorch's products are those of the chip's own library")
    if setting.cpu_dtype is None:
        return LeftAlone(setting.no_compiler)
    if setting.cpu_dtype != "bf16":
        return LeftAlone("PyTorch's products are at their full rate in fp32")
    return Linear(name="linear", template="linear", dtype="bf16", language="cpp")
