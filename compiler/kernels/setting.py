"""What a kernel is chosen for: the spec, and what the plan made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.model import Model
    from ...spec.training import Train
    from .kernel import DType


@dataclass(frozen=True)
class Setting:
    spec: Spec
    train: Train
    grad_accumulation: int
    longest: int
    """Tokens of the longest sequence that the program will see, in training or serving."""

    @property
    def model(self) -> Model:
        return self.spec.model

    @property
    def cpu_dtype(self) -> DType | None:
        """In what the program computes, if it is for a CPU, for which C++ is generated; None for other devices."""
        if self.spec.hardware.accelerator.kind != "cpu":
            return None
        precision = self.train.precision
        return precision if precision in ("bf16", "fp32") else None
