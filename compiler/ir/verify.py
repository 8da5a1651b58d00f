"""Well-formedness of a graph, checked after the frontend and after each pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dims import FREE
from .ops import KINDS

if TYPE_CHECKING:
    from .graph import Graph
    from .ops import Op


class GraphError(Exception):
    """A bug of ours: a stage made a graph that does not hold together."""


def verify(graph: Graph, *, after: str) -> Graph:
    """The graph itself, or a GraphError that names the stage `after` which it broke."""
    problems = [problem for op in graph.all_ops for problem in _op_problems(graph, op)]
    problems = problems or _graph_problems(graph)
    if problems:
        raise GraphError(f"{after} made a broken graph:\n  " + "\n  ".join(problems))
    return graph


def _graph_problems(graph: Graph) -> list[str]:
    problems = []
    if len(graph.by_id) != len(graph.all_ops):
        problems.append("two ops have one id")
    names = {block.name for block in graph.blocks}
    problems += [f"the order names the block {name}, which does not exist" for name in set(graph.order) - names]
    problems += [f"no layer is of the block {name}" for name in names - set(graph.order)]
    ends = [graph.output, *(block.output for block in graph.blocks)]
    problems += [f"the end {end} does not exist" for end in ends if end not in graph]
    position = {op.id: index for index, op in enumerate(graph.all_ops)}
    for op in graph.all_ops:
        late = [source for source in op.inputs if position.get(source, -1) >= position[op.id]]
        problems += [f"{op.id} stands before {source}, which it reads" for source in late]
    if not problems:
        problems += [f"nothing reads {op.id}" for op in graph.all_ops if not graph.users(op) and op.id not in ends]
    return problems


def _op_problems(graph: Graph, op: Op) -> list[str]:
    problems = []
    if op.kind not in KINDS:
        problems.append(f"{op.id}: no such kind of op: {op.kind}")
    if len(op.line.inputs) != len(op.inputs) + len(op.params):
        return [f"{op.id}: {len(op.inputs)} values and {len(op.params)} parameters for the line {op.line}"]
    problems += [
        f"{op.id}: the dim {dim} has no size" for dim in op.line.dims if dim not in op.sizes and dim not in FREE
    ]
    for source_id, term in zip(op.inputs, op.line.inputs, strict=False):
        if source_id not in graph:
            problems.append(f"{op.id}: reads {source_id}, which does not exist")
            continue
        source = graph[source_id]
        if source.block != op.block:
            problems.append(f"{op.id}: reads {source_id} across a block's border")
        written = [_bound(source, dim) for dim in source.line.output.dims]
        read = [_bound(op, dim) for dim in term.dims]
        if written != read:
            problems.append(f"{op.id}: reads {source_id} as {read}, which is written as {written}")
    return problems


def _bound(op: Op, dim: str) -> str | int:
    """A dim's size, or its letter while it is free; key tokens are query tokens seen from the other side."""
    return op.sizes.get(dim, "T" if dim == "S" else dim)
