"""Edits to a graph, collected by a pass and verified at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .verify import verify

if TYPE_CHECKING:
    from .graph import Graph
    from .ops import Op


class Rewriter:
    """A copy of a graph's ops that a pass may change; `finish` gives the new graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._ops = {op.id: op for op in graph.all_ops}
        self._renamed: dict[str, str] = {}

    def replace(self, old: Op, new: Op) -> None:
        """Put `new` in the place of `old`; who read the old op reads the new one."""
        self._ops = {
            (new.id if op_id == old.id else op_id): (new if op_id == old.id else op) for op_id, op in self._ops.items()
        }
        if new.id != old.id:
            self._rename(old.id, new.id)

    def insert_before(self, place: Op, new: Op) -> None:
        """Add an op in front of another."""
        ops: dict[str, Op] = {}
        for op_id, op in self._ops.items():
            if op_id == place.id:
                ops[new.id] = new
            ops[op_id] = op
        self._ops = ops

    def erase(self, op: Op, *, instead: Op | None = None) -> None:
        """Remove an op; who still reads it reads `instead`."""
        del self._ops[op.id]
        if instead is not None:
            self._rename(op.id, instead.id)

    def finish(self, pass_name: str) -> Graph:
        """The new graph, verified; a broken one is reported against the pass."""
        ops = [op.with_inputs(tuple(map(self._current, op.inputs))) for op in self._ops.values()]
        blocks = tuple(replace(block, output=self._current(block.output)) for block in self._graph.blocks)
        graph = self._graph.with_ops(ops, output=self._current(self._graph.output), blocks=blocks)
        return verify(graph, after=pass_name)

    def _rename(self, old: str, new: str) -> None:
        self._renamed[old] = new

    def _current(self, op_id: str) -> str:
        while op_id in self._renamed and op_id not in self._ops:
            op_id = self._renamed[op_id]
        return op_id
