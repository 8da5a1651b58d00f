"""Views of the kernels that a program imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.document import Spec

_CHUNK_LOGITS = 1 << 22
"""Logits that exist at a time: 16 MiB in fp32."""


@dataclass(frozen=True)
class LinearCrossEntropyView:
    """What templates/kernels/pytorch/linear_cross_entropy.py.j2 needs, under the name `k`."""

    hidden_size: int
    vocab_size: int
    chunk: int
    z_loss: float
    softcap: float | None
    has_bias: bool

    @property
    def name(self) -> str:
        return "linear_cross_entropy"

    @property
    def formula(self) -> str:
        plain = "lse(logits) - logits[target]"
        return f"{plain} + {self.z_loss} * lse(logits)**2" if self.z_loss else plain


def lower_kernels(spec: Spec) -> tuple[LinearCrossEntropyView, ...]:
    """The kernels of a program, in the order of the alphabet."""
    if spec.train is None:
        return ()
    model = spec.model
    return (
        LinearCrossEntropyView(
            hidden_size=model.hidden_size,
            vocab_size=model.vocab_size,
            chunk=max(64, _CHUNK_LOGITS // model.vocab_size),
            z_loss=spec.train[0].z_loss,
            softcap=model.head.softcap,
            has_bias=model.head.bias,
        ),
    )
