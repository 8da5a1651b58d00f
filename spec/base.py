"""The base of every section of a spec: frozen, closed to unknown keys, and able to tell which of its keys were read."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[str | int, ...]
"""Where a value stands in the spec: ("train", 0, "optimizer", "lr")."""

_reads: ContextVar[set[Path] | None] = ContextVar("llmc_spec_reads", default=None)


class Node(BaseModel):
    """A mapping of the spec. Reading a field inside `record_reads()` marks its key as consumed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    _path: Path = PrivateAttr(default=())

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            reads = _reads.get()
            if reads is not None and name in type(self).__pydantic_fields__:
                reads.add((*super().__getattribute__("__pydantic_private__")["_path"], name))
            return value


def place(value: Any, path: Path = ()) -> None:
    """Tell every node of a validated spec its path, once, after loading."""
    if isinstance(value, Node):
        value._path = path
        for name in type(value).__pydantic_fields__:
            place(value.__dict__[name], (*path, name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            place(item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            place(item, (*path, key))


@contextmanager
def record_reads() -> Iterator[set[Path]]:
    """Collect the paths of all fields that are read inside the block (see `consumption.py`)."""
    reads: set[Path] = set()
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)
