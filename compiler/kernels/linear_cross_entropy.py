"""Output projection + cross-entropy (+ z-loss).

Fuses    linear [-> softcap] -> cross_entropy; the gradient is computed along with the loss.
Applies  to every training program; C++ goes over the logits of CPU programs without a softcap.
Cost     a token: 6 V D FLOPs; of the logits only a chunk's share exists. Keeps the gradients of hidden and weight.
Truth    runtimes/reference/loss.py: linear_cross_entropy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel

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

    @property
    def formula(self) -> str:
        plain = "lse(logits) - logits[target]"
        return f"{plain} + {self.z_loss} * lse(logits)**2" if self.z_loss else plain


def chunk_of(vocab_size: int, *, precision: str) -> int:
    """Tokens of a chunk, for a vocabulary or the part of it that a rank has."""
    number_bytes = 2 if precision == "bf16" else 4
    return max(1, _CHUNK_BYTES // (vocab_size * number_bytes) // _UNIT) * _UNIT


def choose(setting: Setting) -> LinearCrossEntropy:
    model, dtype = setting.model, setting.cpu_dtype
    return LinearCrossEntropy(
        name="linear_cross_entropy",
        template="linear_cross_entropy",
        dtype=dtype or "fp32",
        is_native=dtype is not None and model.head.softcap is None,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        chunk=chunk_of(model.vocab_size, precision=setting.train.precision),
        z_loss=setting.train.z_loss,
        softcap=model.head.softcap,
        has_bias=model.head.bias,
    )
