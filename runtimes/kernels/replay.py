"""Steps that start the same kernels on the same memory: recorded the first time, and from then on made by a single call.

    replay = Replay(native)                  # a library that includes replay.h
    hidden = replay(layers, x, cos, sin)     # layers(x, cos, sin), whose kernels are Native.function's

What a recording reads and writes stays where it is: inputs are copied to the memory of the first ones, and what the function
allocates lies in memory that all recordings share, as one runs at a time. There is a recording for each set of input
shapes. A function that also does something else than start kernels, such as a sum in PyTorch, is found out as it is recorded,
and is called as it is at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import native as natives
from .native import Native

MOST_ARGUMENTS = 16  # replay.h
_REGION_BYTES = 8 << 20
_VIEWS = frozenset(
    {"aten::view", "aten::alias", "aten::detach", "aten::select.int", "aten::unbind.int", "aten::slice.Tensor"}
)


@dataclass(frozen=True)
class Recording:
    inputs: tuple[Tensor, ...]
    calls: Tensor  # [calls, 1 + MOST_ARGUMENTS], int64
    output: Tensor


class _Arena:
    """Memory for what functions allocate: regions that stay where they are, used from the beginning by each recording."""

    def __init__(self) -> None:
        self._regions: list[Tensor] = []
        self.start()

    def start(self) -> None:
        self._region, self._used = 0, 0

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        size = shape.numel() * dtype.itemsize
        while self._region < len(self._regions) and self._used + size > len(self._regions[self._region]):
            self._region, self._used = self._region + 1, 0
        if self._region == len(self._regions):
            self._regions.append(torch.empty(max(size, _REGION_BYTES), dtype=torch.uint8))
        begin, self._used = self._used, self._used + -(-size // 64) * 64
        return self._regions[self._region][begin : begin + size].view(dtype).view(shape)


class Replay:
    def __init__(self, native: Native) -> None:
        self._run = native.function("replay", pointers=1, integers=1)
        self._recorded: dict[tuple[torch.Size, ...], Recording | None] = {}
        self._arena = _Arena()

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """function(*inputs), a new tensor."""
        key = tuple(each.shape for each in inputs)
        if key not in self._recorded:
            self._recorded[key] = recording = _record(function, inputs, self._arena)
            return function(*inputs) if recording is None else recording.output.clone()
        recording = self._recorded[key]
        if recording is None:
            return function(*inputs)
        for own, new in zip(recording.inputs, inputs, strict=True):
            own.copy_(new)
        self._run(recording.calls.data_ptr(), len(recording.calls))
        return recording.output.clone()


class _Watch(TorchDispatchMode):
    """Allocates in the arena, and sees what PyTorch computes by itself."""

    def __init__(self, arena: _Arena) -> None:
        super().__init__()
        self.arena = arena
        self.is_alone = True
        """Whether nothing but kernels computed anything."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch's own: a mode that says yes, as they do, imports all of torch.compile when it first sees an op, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name(), kwargs or {}
        if name == "aten::empty.memory_format":
            return self.arena.empty(torch.Size(args[0]), kwargs.get("dtype") or torch.get_default_dtype())
        if name == "aten::empty_like":
            return self.arena.empty(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        self.is_alone = self.is_alone and name in _VIEWS
        return func(*args, **kwargs)


def _record(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], arena: _Arena) -> Recording | None:
    """None for a function whose calls of kernels are not all that it does."""
    arena.start()
    own = tuple(each.clone(memory_format=torch.contiguous_format) for each in inputs)
    with natives.recorded() as calls, _Watch(arena) as watch:
        output = function(*own)
    if not watch.is_alone or not calls:
        return None
    rows = [(address, *(each or 0 for each in args), *[0] * (MOST_ARGUMENTS - len(args))) for address, args in calls]
    return Recording(own, torch.tensor(rows, dtype=torch.int64), output)
