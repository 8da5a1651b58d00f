"""Fake tensors whose shapes are numbers: torch's own also keep track of unknown sizes and of a compiler, for a third of their time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

_facts = attrgetter(*(each.name for each in dataclasses.fields(fake_tensor.TensorMetadata)))


class PlainFakes(FakeTensorMode):
    """A mode in which every size is known and nothing is ever compiled."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatch(func, types, args, kwargs or {})


@contextmanager
def plain_fakes() -> Iterator[None]:
    """Tensors are fake until the block ends. What an op returns is looked up by the facts of its tensors, each a tuple of them."""
    flatten = fake_tensor.TensorMetadata._flatten_into
    fake_tensor.TensorMetadata._flatten_into = _add_facts  # type: ignore[method-assign]
    try:
        with PlainFakes():
            yield
    finally:
        fake_tensor.TensorMetadata._flatten_into = flatten  # type: ignore[method-assign]


def _add_facts(metadata: Any, key: list[object], *_: Any) -> None:
    key.append(_facts(metadata))
