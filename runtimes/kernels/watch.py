"""What a function does besides starting kernels: for those who note its calls and make them at another time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .native import Calls

MOST_ARGUMENTS = 16  # replay.h
VIEWS = frozenset(
    {"aten::view", "aten::alias", "aten::detach", "aten::select.int", "aten::unbind.int", "aten::slice.Tensor"}
)


def packed(calls: Calls) -> array[int]:
    """What replay.h reads: int64 [calls, 1 + MOST_ARGUMENTS], the address of a function and its arguments, then zeros."""
    rows = array("q")
    for address, args in calls:
        rows.append(address)
        rows.extend(each or 0 for each in args)
        rows.extend([0] * (MOST_ARGUMENTS - len(args)))
    return rows


class KernelWatch(TorchDispatchMode, ABC):
    """Sees what a function asks of PyTorch between kernels: memory, and what it has it compute."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch's own: a mode that says yes, as they do, imports all of torch.compile when it first sees an op, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name(), kwargs or {}
        if name == "aten::empty.memory_format":
            return self.empty(torch.Size(args[0]), kwargs.get("dtype") or torch.get_default_dtype())
        if name == "aten::empty_like":
            return self.empty(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        return self.other(func, args, kwargs)

    @abstractmethod
    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory for a kernel's output."""

    @abstractmethod
    def other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the op gives."""
