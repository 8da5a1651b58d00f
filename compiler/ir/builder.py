"""Makes a graph op by op, in program order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .graph import Block, Graph
from .ops import BLOCK_INPUT, Op, OpKind, Param, make_op
from .verify import verify

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHT = (Param("weight"),)


class Builder:
    """Ops so far. `scope` is the block that new ops belong to; values are op ids."""

    def __init__(self, *, name: str, sizes: Mapping[str, int]) -> None:
        self.name = name
        self.sizes = sizes
        self.scope: str | None = None
        self._ops: list[Op] = []
        self._blocks: list[Block] = []

    def add(
        self,
        kind: OpKind,
        name: str,
        *inputs: str,
        line: str | None = None,
        params: tuple[Param, ...] = (),
        sizes: Mapping[str, int] | None = None,
        **attrs: Any,
    ) -> str:
        """Append an op and return its id."""
        bound = {**self.sizes, **(sizes or {})}
        op = make_op(kind, name, *inputs, sizes=bound, line=line, params=params, block=self.scope, **attrs)
        self._ops.append(op)
        return op.id

    def tie(self, name: str, param: Param) -> None:
        """Make the weight of the op added last, `name`, another op's."""
        assert self._ops[-1].name == name
        self._ops[-1] = replace(self._ops[-1], params=(param, *self._ops[-1].params[1:]))

    def open_block(self, name: str) -> str:
        """Start a block; returns its input."""
        self.scope = name
        return self.add(BLOCK_INPUT, "x")

    def close_block(self, output: str) -> None:
        """End the block that is open."""
        assert self.scope is not None
        self._blocks.append(Block(name=self.scope, output=output))
        self.scope = None

    def finish(self, *, order: tuple[str, ...], output: str) -> Graph:
        """The graph, verified."""
        trunk = [op for op in self._ops if op.block is None]
        inside = [op for op in self._ops if op.block is not None]
        graph = Graph(
            name=self.name,
            sizes=self.sizes,
            all_ops=(*trunk, *inside),
            blocks=tuple(self._blocks),
            order=order,
            output=output,
        )
        return verify(graph, after="the frontend")
