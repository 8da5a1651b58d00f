"""Pallas kernels of a generated program: written out by JAX, called on what each device has of the tensors.

A kernel is two files: `add_rms_norm.py` with the function that model.py calls, `add_rms_norm_tpu.py` with functions that are one call of
Pallas each.

    tpu = load(__file__, price="8,192 bytes ...")     # add_rms_norm.py -> add_rms_norm_tpu.py
    if not tpu.takes(branch, dtype=torch.bfloat16):
        return eager_add_rms_norm(x, branch, weight)
    total, h = tpu.call("forward", x, branch, weight, takes=(HIDDEN, HIDDEN, WHOLE), gives=(HIDDEN, HIDDEN))

Elsewhere than on TPUs plain PyTorch runs, with the same numbers to rounding. With LLMC_PALLAS=interpret tensors of the CPU are taken as
well: then Pallas' interpreter runs the kernels. It fills what lies beyond the end of a tensor with NaN.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..common.modules import module_of
from ..kernels.native import CHOICE
from . import device
from .device import Spread

INTERPRET = "LLMC_PALLAS"
is_for_tpus = device.is_tpu
"""Whether kernels are called; dry runs say yes on a CPU (stage.py)."""


class Tpu:
    """The functions of one kernel."""

    def __init__(self, file: Path, *, is_wanted: bool) -> None:
        self.file = file
        self.is_wanted = is_wanted
        self._module: ModuleType | None = None

    @property
    def module(self) -> ModuleType:
        """Imported when it is first called: where nothing is, JAX is not asked for."""
        if self._module is None:
            self._module = module_of(self.file)
        return self._module

    def takes(self, *tensors: Tensor, dtype: torch.dtype) -> bool:
        """Whether the kernel, generated for `dtype`, works on these tensors."""
        if not self.is_wanted or any(each.dtype != dtype for each in tensors):
            return False
        return is_for_tpus() or (is_interpreted() and all(each.device.type == "cpu" for each in tensors))

    def call(
        self, function: str, *args: Tensor | None, takes: Sequence[Spread], gives: Sequence[Spread]
    ) -> list[Tensor]:
        """A function of the kernel's file; `takes` and `gives` are how its arguments and results are cut."""
        assert len(args) == len(takes)
        start = getattr(self.module, function)
        if is_for_tpus():
            return device.called(start, args, takes=takes, gives=gives)
        return _interpreted(start, args)


def load(module_file: str, *, price: str) -> Tpu:
    """The kernel `<module>_tpu.py` beside `<module>.py`; `price` says what a program pays without it."""
    file = Path(module_file)
    is_wanted = os.environ.get(CHOICE) != "eager"
    if is_for_tpus() and not is_wanted:
        print(f"warning: {file.stem} runs in plain PyTorch, with the same results and {price}", file=sys.stderr)
    return Tpu(file.with_name(f"{file.stem}_tpu.py"), is_wanted=is_wanted)


def is_interpreted() -> bool:
    return os.environ.get(INTERPRET) == "interpret"


def _interpreted(start: Callable[..., Any], args: Sequence[Tensor | None]) -> list[Tensor]:
    import jax  # pyright: ignore[reportMissingImports]

    arrays = [None if each is None else jax.dlpack.from_dlpack(each.detach().contiguous()) for each in args]
    outputs = jax.jit(start, static_argnames="interpret")(*arrays, interpret=True)
    return [torch.from_dlpack(each) for each in outputs]
