"""The stable text form of a graph, for `--dump-ir`, for tests of passes, and for reading.

graph tiny: 12 layers = block x 12
dims D=384 H=6 K=2 C=64 F=1024 V=4096

embed = embedding(tokens)  [B T, V D -> B T D]  weight
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import Graph
    from .ops import Op


def print_graph(graph: Graph) -> str:
    """One line an op, the trunk first, then each block."""
    sizes = " ".join(f"{dim}={size}" for dim, size in graph.sizes.items())
    lines = [f"graph {graph.name}: {graph.num_layers} layers = {fold_order(graph.order)}", f"dims {sizes}", ""]
    lines += [_print_op(op, graph) for op in graph.trunk()]
    lines.append(f"-> {graph.output}")
    for block in graph.blocks:
        lines += ["", f"block {block.name} x {graph.count(block.name)}"]
        lines += [f"  {_print_op(op, graph)}" for op in graph.block_ops(block.name)]
        lines.append(f"  -> {block.output.partition('/')[2]}")
    return "\n".join(lines) + "\n"


def fold_order(order: tuple[str, ...]) -> str:
    """`(local, local, global, local, local, global)` -> `(local x 2, global) x 2`."""
    runs = [(name, len(list(group))) for name, group in groupby(order)]
    parts: list[str] = []
    while runs:
        period, times = _longest_repeat(runs)
        inside = ", ".join(name if count == 1 else f"{name} x {count}" for name, count in runs[:period])
        parts.append(inside if times == 1 else f"({inside}) x {times}")
        runs = runs[period * times :]
    return ", ".join(parts)


def _longest_repeat(runs: list[tuple[str, int]]) -> tuple[int, int]:
    """How long the pattern at the start is, and how often it repeats; the one that covers most."""
    best = (1, 1)
    for period in range(1, min(8, len(runs) // 2) + 1):
        times = 1
        while runs[times * period : (times + 1) * period] == runs[:period]:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _print_op(op: Op, graph: Graph) -> str:
    inputs = ", ".join(source.partition("/")[2] or source for source in op.inputs)
    parts = [f"{op.name} = {op.kind}({inputs})", f"[{op.line}]"]
    own = [f"{dim}={size}" for dim, size in op.sizes.items() if graph.sizes.get(dim) != size]
    if own:
        parts.append(" ".join(own))
    if op.params:
        parts.append(" ".join(map(str, op.params)))
    parts += [f"{key}={_print_value(value)}" for key, value in op.attrs.items()]
    return "  ".join(parts)


def _print_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + " ".join(map(_print_value, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
