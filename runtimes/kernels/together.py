"""Kernels of a step that are started together, by a single call at the end: for steps of large shapes that change, which nobody would replay.

    hidden = start_together(run, layers, x, cos, sin)    # layers(x, cos, sin), whose kernels are Native.function's

After a kernel that worked on megabytes Python finds its own code and objects gone from the L2 cache, and takes 50 to 100 us to the next one
(Zen 5), where it takes 8 us else: 1 to 2 % of a prompt of 512 tokens in TinyLlama's shape. So the function is run to its end first, and its calls are noted.
Memory that it lets go of is given to what it asks for next, although nobody has worked on it yet: kernels start in the order in which they were
noted, and each has done with its memory before the one that has it next. What PyTorch computes by itself waits for the kernels before it.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from . import memory
from . import native as natives
from .watch import VIEWS, KernelWatch, packed

_BYTES = torch.empty(0, dtype=torch.uint8)


def start_together(
    run: Callable[[int, int], None], function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> Tensor:
    """function(*inputs). `run(address, n)` makes n calls, as `packed` writes them."""
    with natives.recorded(they_wait=True) as calls, _Queue(run, calls) as queue:
        output = function(*inputs)
        queue.start()
    return output


class _Queue(KernelWatch):
    """Lends memory, and has kernels start before PyTorch reads what they write."""

    def __init__(self, run: Callable[[int, int], None], calls: natives.Calls) -> None:
        super().__init__()
        self._run = run
        self._calls = calls
        self._blocks: set[int] = set()  # addresses of all
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # bytes -> blocks that nobody has
        self._kept: list[Any] = []  # what PyTorch computed: kernels that wait may read what nobody else has any more

    def start(self) -> None:
        """The kernels noted so far: none where there is no compiler."""
        if not self._calls:
            return
        rows = packed(self._calls)
        self._run(rows.buffer_info()[0], len(self._calls))
        self._calls.clear()

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        size = shape.numel() * dtype.itemsize
        free = self._free[size]
        block = free.pop() if free else memory.empty((size,), like=_BYTES).numpy()
        self._blocks.add(block.ctypes.data)
        loan = block[:]  # lives as long as the tensor's storage
        weakref.finalize(loan, free.append, block).atexit = False
        return torch.from_numpy(loan).view(dtype).view(shape)

    def other(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func.name() in VIEWS:
            return func(*args, **kwargs)
        if any(map(self._may_be_written, tree_flatten((args, kwargs))[0])):
            self.start()
        found = func(*args, **kwargs)
        self._kept.append(found)
        return found

    def _may_be_written(self, arg: Any) -> bool:
        """By kernels that wait: into memory that was lent, and numbers such as those of a cache."""
        if not isinstance(arg, Tensor):
            return False
        return arg.dtype not in (torch.int64, torch.bool) or arg.untyped_storage().data_ptr() in self._blocks
