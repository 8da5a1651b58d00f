"""Which ops of the dispatcher a step calls: what a device needs kernels for."""

from __future__ import annotations

from typing import Any

from .mode import Watching


class SeenOps(Watching):
    """`names`: `aten::mm`, `aten::add.Tensor` … of everything called while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))
