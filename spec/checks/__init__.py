"""What fields mean together."""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnostics import Diagnostic
from ..document import Spec
from ..nodes import MappingNode


def check(spec: Spec | None, tree: MappingNode) -> Iterator[Diagnostic]:
    yield from ()
