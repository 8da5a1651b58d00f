"""Embedding with its gradient summed in fp32.

Fuses    nothing: it replaces the backward pass of embedding, which adds in the dtype of the table.
Applies  to CPU programs that train in bf16, where the table is bf16.
Cost     a token: reads and writes D numbers; backward, the rows in use in fp32.
Truth    runtimes/reference/embedding.py: embed
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel, LeftAlone

if TYPE_CHECKING:
    from .setting import Setting


@dataclass(frozen=True, kw_only=True)
class Embed(Kernel):
    vocab_size: int
    hidden_size: int

    @property
    def fuses(self) -> str:
        return "nothing; the gradient of a bf16 table is summed in fp32"


def choose(setting: Setting) -> Embed | LeftAlone:
    if setting.is_tpu:
        return LeftAlone("weights are fp32, and so are sums of their gradients")
    if setting.cpu_dtype != "bf16":
        return LeftAlone("PyTorch sums this gradient in fp32 on GPUs, and wherever weights are fp32")
    model = setting.model
    return Embed(
        name="embed",
        template="embed",
        dtype="bf16",
        language="pytorch",
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
    )
