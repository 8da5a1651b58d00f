"""Residual sum + RMSNorm.

Fuses    add -> rms_norm, so that the residual stream is read and written once a norm.
Applies  to CPU programs whose blocks norm first (`block: {kind: sequential, norms: pre}`) with RMSNorm and
         add their parts as they are (no `residual_scale`).
Cost     a token: reads x and the branch, writes the stream and its normed copy; keeps normed numbers and one figure.
         Separate ops keep the fp32 stream in place of the normed bf16 numbers: twice the bytes.
Truth    runtimes/reference/norm.py: add_rms_norm
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel

if TYPE_CHECKING:
    from .setting import Setting


@dataclass(frozen=True, kw_only=True)
class AddRmsNorm(Kernel):
    hidden_size: int
    eps: float
    unit_offset: bool

    @property
    def saved_bytes(self) -> int:
        """What a token keeps for the backward pass."""
        return self.hidden_size * self.number_bytes + 4

    @property
    def why(self) -> str:
        return f"It keeps {self.saved_bytes:,} bytes a token for the backward pass: the normed numbers, and 1 / rms."


def choose(setting: Setting) -> AddRmsNorm | None:
    model, dtype = setting.model, setting.cpu_dtype
    is_pre = model.block.kind == "sequential" and model.block.norms == "pre" and model.block.residual_scale is None
    if dtype is None or not is_pre or model.norm.kind != "rmsnorm":
        return None
    return AddRmsNorm(
        name="add_rms_norm",
        template="add_rms_norm",
        dtype=dtype,
        is_native=True,
        hidden_size=model.hidden_size,
        eps=model.norm.eps,
        unit_offset=model.norm.unit_offset,
    )
