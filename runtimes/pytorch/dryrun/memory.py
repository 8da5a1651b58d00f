"""Bytes that tensors hold while a program runs, counted by storage: what is live now, and the most that ever was.

A storage counts from the first op that returns a tensor of it until Python lets go of it; FSDP frees gathered weights by
resizing their storage to nothing and back, which is counted as well. Sizes are of the tensors, without what an allocator
rounds up or keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_iter

from .mode import Watching


class LiveBytes(Watching):
    """Counts while active; `add` takes in tensors from before."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}  # id of a storage -> bytes
        self._references: dict[int, weakref.ref[Any]] = {}

    def add(self, tensors: Iterator[torch.Tensor]) -> None:
        """Count tensors that were made before this mode was active."""
        for tensor in tensors:
            self._see(tensor.untyped_storage())

    def restart_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def see(self, func: Any, args: Any, result: Any) -> None:
        for each in tree_iter(result):
            if isinstance(each, torch.Tensor):
                self._see(each.untyped_storage())

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._sizes:
            self._references[key] = weakref.ref(storage, lambda _, key=key: self._forget(key))
            self._sizes[key] = 0
        self._resize(key, storage.nbytes())

    def _resize(self, key: int, num_bytes: int) -> None:
        self.live += num_bytes - self._sizes[key]
        self._sizes[key] = num_bytes
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self._references.pop(key, None)
        self.live -= self._sizes.pop(key, 0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Active, resizes of storages included."""
        resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._counted(resize)  # type: ignore[method-assign]
        try:
            with self:
                yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    def _counted(self, resize: Callable[..., Any]) -> Callable[..., Any]:
        def resize_(storage: torch.UntypedStorage, num_bytes: int) -> Any:
            result = resize(storage, num_bytes)
            if id(storage) in self._sizes:
                self._resize(id(storage), num_bytes)
            return result

        return resize_
