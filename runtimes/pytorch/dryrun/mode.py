"""What watches the ops of a dry run."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICE = torch.ops.prim.device.default
"""How torch asks a fake tensor for its device: as often as it calls ops."""


class Watching(TorchDispatchMode):
    """A mode that nothing is ever compiled under: torch need not keep its compiler away from each call (a tenth of the time)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].device
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # its local tensors come by next
        result = func(*args, **(kwargs or {}))
        self.see(func, args, result)
        return result

    def see(self, func: Any, args: Any, result: Any) -> None:
        """Called after every op of plain tensors; a mode that notes anything else has a dispatch of its own."""
