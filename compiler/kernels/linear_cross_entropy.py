"""Output projection + cross-entropy (+ z-loss).

Fuses    linear [-> softcap] -> cross_entropy; the gradient is computed along with the loss.
Applies  to every training program whose vocabulary no tp cuts; C++ goes over the logits of CPU programs without a softcap,
         Triton over those of GPU programs.
Cost     a token: 6 V D FLOPs; of the logits only a chunk's share exists. Keeps the gradients of hidden and weight.
Truth    runtimes/reference/loss.py: linear_cross_entropy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel, LeftAlone
from .tiles import RowTile, long_row

if TYPE_CHECKING:
    from .setting import Setting

_CHUNK_BYTES = 1 << 26
"""Of the logits that exist at a time: 64 MiB. The matrix products are at their full rate from 512 tokens on; each chunk
after the first costs a pass over the gradient of the weight."""
_UNIT = 64
"""Chunks are multiples of this many tokens."""


@dataclass(frozen=True, kw_only=True)
class LinearCrossEntropy(Kernel):
    hidden_size: int
    vocab_size: int
    chunk: int
    z_loss: float
    softcap: float | None
    has_bias: bool
    has_products: bool = False
    """Whether products are those of kernels/linear.py."""
    tiles: RowTile | None = None

    @property
    def fuses(self) -> str:
        return "output projection, cross-entropy, and their gradients"

    @property
    def spared_bytes(self) -> float:
        """runtimes/reference/loss.py goes over a logit eight times, in fp32 and back; a kernel reads it twice and writes it once."""
        return 0.0 if self.language == "pytorch" else float(self.vocab_size * (36 + self.number_bytes))

    @property
    def has_headroom(self) -> bool:
        """Whether the gradient of the head is summed in a format that has no room for long sums."""
        return self.dtype == "fp16"

    @property
    def formula(self) -> str:
        plain = "lse(logits) - logits[target]"
        return f"{plain} + {self.z_loss} * lse(logits)**2" if self.z_loss else plain


def chunk_of(vocab_size: int, *, precision: str) -> int:
    """Tokens of a chunk, for a vocabulary or the part of it that a rank has."""
    number_bytes = 4 if precision == "fp32" else 2
    return max(1, _CHUNK_BYTES // (vocab_size * number_bytes) // _UNIT) * _UNIT


def choose(setting: Setting) -> LinearCrossEntropy | LeftAlone:
    model, chip = setting.model, setting.chip
    if setting.layout.tp > 1:
        return LeftAlone("ranks of tp have parts of the vocabulary, and sum between its passes")
    if setting.is_tpu:
        return LeftAlone("the loss comes in pieces (runtimes/xla/loss.py), whose pointwise part the TPU compiler fuses")
    if chip is not None:
        language = "triton"
    else:
        language = "cpp" if setting.is_cpu and setting.dtype and model.head.softcap is None else "pytorch"
    return LinearCrossEntropy(
        name="linear_cross_entropy",
        template="linear_cross_entropy",
        dtype=setting.dtype or ("fp16" if setting.train.precision == "fp16" else "fp32"),
        language=language,
        chip="" if chip is None else setting.chip_name,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        chunk=chunk_of(model.vocab_size, precision=setting.train.precision),
        z_loss=setting.train.z_loss,
        softcap=model.head.softcap,
        has_bias=model.head.bias,
        has_products=setting.cpu_dtype == "bf16",
        tiles=None if chip is None else long_row(model.vocab_size, chip),
    )
