"""What a kernel is chosen for: the spec, and what the plan made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ..planner.layout import Layout
from .chips import chip_of
from .tpus import tpu_of

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.model import Model
    from ...spec.training import Train
    from .chips import Chip
    from .kernel import DType, Language
    from .tpus import Tpu


@dataclass(frozen=True)
class Setting:
    spec: Spec
    train: Train
    grad_accumulation: int
    longest: int
    """Tokens of the longest sequence that the program will see, in training or serving."""
    layout: Layout = field(default_factory=Layout)

    @property
    def model(self) -> Model:
        return self.spec.model

    @property
    def dtype(self) -> DType | None:
        """In what the program computes; None for numbers that no kernel is generated for."""
        precision = self.train.precision
        if precision == "fp8" and not self.is_cpu:
            return "bf16"  # between products
        return precision if precision in ("bf16", "fp32") else None

    @property
    def cpu_dtype(self) -> DType | None:
        """The same, if the program is for one CPU, for which C++ is generated; None for other devices."""
        return self.dtype if self.is_cpu and self.layout.devices == 1 else None

    @property
    def is_cpu(self) -> bool:
        return self.spec.hardware.accelerator.kind == "cpu"

    @cached_property
    def chip(self) -> Chip | None:
        """The GPU of a program for which Triton is generated; None for other devices."""
        return chip_of(self.spec.hardware.accelerator) if self.dtype is not None else None

    @cached_property
    def tpu(self) -> Tpu | None:
        """The TPU of a program for which Pallas is generated; None for other devices."""
        return tpu_of(self.spec.hardware.accelerator) if self.dtype is not None else None

    @property
    def language(self) -> Language | None:
        """What kernels are generated in; None: nothing is, for `no_compiler`."""
        if self.cpu_dtype is not None:
            return "cpp"
        return "triton" if self.chip is not None else "pallas" if self.tpu is not None else None

    @property
    def is_tpu(self) -> bool:
        return self.spec.hardware.accelerator.kind == "tpu"

    @property
    def chip_name(self) -> str:
        """The GPU or TPU as generated files name it; empty for CPUs, which compile for themselves."""
        found = self.chip or self.tpu
        if found is None:
            return ""
        accelerator = self.spec.hardware.accelerator
        return f"{accelerator.name or accelerator.like or f'{accelerator.kind.upper()}s'} ({found.target})"

    @property
    def stream_dtype(self) -> DType:
        """Of the residual stream: fp32 under autocast; FSDP, and programs for TPUs, give one that is bf16."""
        is_autocast = self.layout.data_parallel * self.layout.cp == 1 and self.tpu is None
        return "fp32" if self.dtype == "fp32" or is_autocast else "bf16"

    @property
    def no_compiler(self) -> str:
        """Why neither C++ nor Triton nor Pallas is generated."""
        if self.dtype is None:
            return f"no kernel is generated for {self.train.precision}"
        if self.is_cpu:
            return "C++ kernels take no sharded weights or tokens"
        return "Triton does not compile for this device"
