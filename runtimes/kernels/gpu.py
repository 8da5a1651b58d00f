"""Triton kernels of a generated program: loaded when Triton is there, called through custom ops that work without it.

A kernel is two files: `swiglu.py` with the function that model.py calls and its custom ops, `swiglu_gpu.py` with the kernels
in Triton and the functions that start them.

    gpu = load(__file__, price="4,096 bytes ...")     # swiglu.py -> swiglu_gpu.py
    if not gpu.takes(gate_up, dtype=torch.bfloat16):
        return eager_swiglu(gate_up)
    gpu.call("forward", gate_up, out)                 # inside a custom op, which has shapes for tensors without memory

Fake tensors are always taken, so that what a program keeps and moves is seen as the device will have it, on any machine.
On Ascend NPUs Triton is the package triton-ascend. With TRITON_INTERPRET=1 tensors of the CPU are taken as well: then Triton's interpreter runs the kernels.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..common.modules import module_of
from .native import CHOICE

BLOCKS_IN_TURNS = ("TRITON_ALL_BLOCKS_PARALLEL", "1")
"""For triton-ascend: each vector core takes every n-th block of a kernel. By itself it starts no more than 65,535 blocks."""


class Gpu:
    """The functions of one kernel; without Triton it takes nothing that has memory."""

    def __init__(self, module: ModuleType | None, *, is_wanted: bool = True) -> None:
        self.module = module
        self._is_wanted = is_wanted
        self._devices = ("cuda", "npu", "cpu") if is_interpreted() else ("cuda", "npu")

    def takes(self, *tensors: Tensor, dtype: torch.dtype) -> bool:
        """Whether the kernel, generated for `dtype`, works on these tensors."""
        if not self._is_wanted or any(each.dtype != dtype for each in tensors):
            return False
        if any(isinstance(each, FakeTensor) for each in tensors):
            return True
        return self.module is not None and all(each.device.type in self._devices for each in tensors)

    def call(self, function: str, *args: Any) -> Any:
        """Start a function of the kernel's file."""
        assert self.module is not None, "call `takes` first"
        return getattr(self.module, function)(*args)


def load(module_file: str, *, price: str) -> Gpu:
    """The kernel `<module>_gpu.py` beside `<module>.py`; `price` says what a program pays without it."""
    file = Path(module_file)
    if os.environ.get(CHOICE) == "eager":
        return Gpu(None, is_wanted=False)
    if importlib.util.find_spec("triton") is None:
        if has_device():
            _warn(file.stem, price)
        return Gpu(None)
    if has_npu():
        os.environ.setdefault(*BLOCKS_IN_TURNS)
    return Gpu(module_of(file.with_name(f"{file.stem}_gpu.py")) if has_device() or is_interpreted() else None)


def has_device() -> bool:
    return torch.cuda.is_available() or has_npu()


def has_npu() -> bool:
    """With torch-npu, which torch loads by itself."""
    npu = getattr(torch, "npu", None)
    return npu is not None and npu.is_available()


def is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _warn(name: str, price: str) -> None:
    print(
        f"warning: no Triton on this machine: {name} runs in plain PyTorch, with the same results and {price}",
        file=sys.stderr,
    )
