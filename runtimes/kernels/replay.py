"""Steps that start the same kernels on the same memory: recorded the first time, and from then on made by a single call.

    replay = Replay(native)                  # a library that includes replay.h
    hidden = replay(layers, x, cos, sin)     # layers(x, cos, sin), whose kernels are Native.function's

What a recording reads and writes stays where it is: inputs are copied to the memory of the first ones, and what the function
allocates lies in memory that all recordings share, as one runs at a time. There is a recording for each set of input
shapes. A function that also does something else than start kernels, such as a sum in PyTorch, is found out as it is recorded,
and is called as it is at every step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import native as natives
from .native import Native
from .together import start_together
from .watch import VIEWS, KernelWatch, packed

LARGE_BYTES = 1 << 20
"""Of the activations that a step begins with: kernels that work on as much leave nothing of Python in a core's L2 cache (together.py)."""
_REGION_BYTES = 8 << 20


@dataclass(frozen=True)
class Recording:
    inputs: tuple[Tensor, ...]
    calls: natives.Calls
    rows: array[int]  # the same, as `packed` writes them
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
    """Makes steps by a call of `native`'s `replay`."""

    def __init__(self, native: Native) -> None:
        self._run = native.function("replay", pointers=1, integers=1, is_noted=False)
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
        self._run(recording.rows.buffer_info()[0], len(recording.calls))
        return recording.output.clone()

    def once(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """The same for inputs of shapes that may not come again. Nothing is recorded; where the first is large, kernels start together."""
        is_large = type(inputs[0]) is Tensor and inputs[0].nbytes >= LARGE_BYTES  # what has no memory is left alone
        return start_together(self._run, function, inputs) if is_large else function(*inputs)


class _Recorder(KernelWatch):
    """Allocates in the arena, and sees whether nothing but kernels computed anything."""

    def __init__(self, arena: _Arena) -> None:
        super().__init__()
        self.arena = arena
        self.is_alone = True

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return self.arena.empty(shape, dtype)

    def other(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.is_alone = self.is_alone and func.name() in VIEWS
        return func(*args, **kwargs)


def _record(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], arena: _Arena) -> Recording | None:
    """None for a function whose calls of kernels are not all that it does."""
    arena.start()
    own = tuple(each.clone(memory_format=torch.contiguous_format) for each in inputs)
    with natives.recorded() as calls, _Recorder(arena) as watch:
        output = function(*own)
    if not watch.is_alone or not calls:
        return None
    return Recording(own, calls, packed(calls), output)
