"""Parameters as a program stores them on a rank: rows and columns, what tp and ep leave of them, and what FSDP gathers together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..ir.ops import Op
from .sharding import shard

if TYPE_CHECKING:
    from ..ir.dims import Term
    from ..ir.graph import Graph
    from ..planner.layout import Layout
    from .pipeline import Stage

WIDE = 4
"""Bytes of weights, gradients, losses and whatever is summed over ranks."""
_BELOW = {"attn.rope_key": "attn.kv_down", "attn.v_up": "attn.k_up"}
"""Projections of the graph whose rows lie below those of another one in the same parameter of the program."""
_PARTIAL = ("attn.q_norm", "attn.k_norm", "mlp.router", "mlp.shared_gate")
"""Not cut by tp, and used for what is: on the rank's heads alone, or on the way to its part of each expert."""


@dataclass(frozen=True)
class Stored:
    """A parameter as the program stores it on a rank, before ZeRO."""

    rows: int
    columns: int
    is_whole: bool = False
    """tp does not cut it."""
    has_columns: bool = False
    """tp cuts its columns and not its rows."""
    is_partial: bool = False
    """Not cut, and a rank of tp sees a share of its gradient, whether or not tokens are cut."""
    copied_from: int | None = None
    """The first of the rows that several ranks of tp hold: keys and values with fewer heads than ranks."""
    is_expert: bool = False
    """Sharded apart from its layer, over the ranks that have the same experts."""
    is_stack: bool = False
    """Matrices of experts, of which ZeRO leaves a rank whole ones."""
    expert_shape: tuple[int, int] | None = None
    """Rows and columns of the matrix of one expert; None: there is but one matrix."""

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of it, or of each in a stack."""
        return self.expert_shape or (self.rows, self.columns)

    def padded(self, shards: int) -> int:
        """Elements of all shards together: FSDP gives each rank equally many rows."""
        return math.ceil(self.rows / shards) * shards * self.columns

    def held(self, shards: int, rank: int, *, since: int = 0) -> int:
        """Elements of the rows from `since` on that one of the shards has."""
        run = math.ceil(self.rows / shards)
        start, stop = max(since, rank * run), min(self.rows, (rank + 1) * run)
        return max(0, stop - start) * self.columns


@dataclass(frozen=True)
class Unit:
    """What FSDP gathers together: a layer, its experts where ep spreads them, or what no layer of a stage has."""

    tensors: tuple[Stored, ...]
    is_root: bool = False
    is_expert: bool = False


def units_of(graph: Graph, layout: Layout, stage: Stage, *, counts_copies: bool = True) -> Iterator[Unit]:
    """The units of one stage. `counts_copies`: a tied embedding that the head has, beside the first stage's."""
    classes = {block.name: tuple(stored(graph, graph.block_ops(block.name), layout)) for block in graph.blocks}
    for number in stage.layers:
        tensors = classes[graph.order[number]]
        yield Unit(tuple(each for each in tensors if not each.is_expert))
        experts = tuple(each for each in tensors if each.is_expert)
        if experts:
            yield Unit(experts, is_expert=True)
    below, above = _trunk(graph)
    tensors = [*stored(graph, below, layout)] if stage.has_embed else []
    tensors += [*stored(graph, above, layout)] if stage.has_head else []
    if stage.has_head and not stage.has_embed and counts_copies and (tied := tied_embedding(graph, layout)):
        tensors.append(tied)
    if tensors:
        yield Unit(tuple(tensors), is_root=True)


def shards_of(layout: Layout, *, is_expert: bool) -> int:
    """Ranks that share a parameter: with experts, those that have the same."""
    return layout.shards // layout.ep if is_expert else layout.shards


def shards_axis(layout: Layout) -> str:
    """The axis that model states are sharded over."""
    return "+".join(name for name in ("dp_shard", "cp") if getattr(layout, name) > 1) or "dp_shard"


def held_by(tensor: Stored, layout: Layout, shard_rank: int, *, since: int = 0) -> int:
    """Elements that one rank has of a parameter after ZeRO. Ranks of ep are neighbours among the shards."""
    if not layout.zero:
        return tensor.held(1, 0, since=since)
    rank = shard_rank // layout.ep if tensor.is_expert else shard_rank
    return tensor.held(shards_of(layout, is_expert=tensor.is_expert), rank, since=since)


def cuts_rows_of_experts(held: int, *, sharing: int, rows: int, hidden_size: int) -> bool:
    """Whether ZeRO cuts the matrices of experts and not their number, which does not come out even."""
    return held % sharing != 0 and rows % sharing == 0 and hidden_size % sharing == 0


def _trunk(graph: Graph) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """The ops before the layers, and those after them."""
    ops = graph.trunk()
    layers = next(number for number, op in enumerate(ops) if op.kind == "layers")
    return ops[:layers], ops[layers:]


def tied_embedding(graph: Graph, layout: Layout) -> Stored | None:
    """The embedding, if the head's weight is tied to it."""
    below, above = _trunk(graph)
    is_tied = any(param.tied_to is not None for op in above for param, _ in op.param_terms)
    return next(iter(stored(graph, below, layout))) if is_tied else None


def stored(graph: Graph, ops: Iterable[Op], layout: Layout) -> Iterator[Stored]:
    """The parameters of some ops, those that the program keeps in one as one."""
    found: dict[tuple[str, str], Stored] = {}
    for op in ops:
        for name, tensor in _of_op(graph, op, layout):
            key = (_BELOW.get(op.name, op.name), name)
            above = found.get(key)
            found[key] = tensor if above is None else replace(above, rows=above.rows + tensor.rows)
    yield from found.values()


def _of_op(graph: Graph, op: Op, layout: Layout) -> Iterator[tuple[str, Stored]]:
    local = shard(op, layout.degrees)
    sizes = dict(local.sizes)
    if op.kind == "embedding":
        sizes["V"] = math.ceil(sizes["V"] / layout.tp)
    if op.kind == "fused_qkv":
        sizes["W"] = _qkv_rows(graph, layout.tp)
    for param, term in local.param_terms:
        if not param.is_trained or param.tied_to is not None:
            continue
        size = term.size(sizes)
        rows = _rows(graph, op, term, sizes, layout)
        has_copies = op.kind == "fused_qkv" and kv_copies(graph, layout) > 1
        is_expert = op.kind.startswith("expert")
        is_whole = size * (layout.ep if is_expert else 1) == term.size(op.sizes)
        yield (
            param.name,
            Stored(
                rows,
                size // rows,
                is_whole=is_whole,
                has_columns=not is_whole and rows == _rows(graph, op, term, dict(op.sizes), layout),
                is_partial=op.name in _PARTIAL or (is_expert and is_whole),
                copied_from=rows - 2 * graph.sizes["C"] if has_copies else None,
                is_expert=is_expert and layout.ep > 1,
                is_stack=is_expert and len(term.dims) == 3 and not _cuts_rows(graph, layout),
                expert_shape=_expert_shape(op, size, sizes) if is_expert and len(term.dims) == 3 else None,
            ),
        )


def _qkv_rows(graph: Graph, tp: int) -> int:
    """Queries of a rank's heads, and its keys and values: with fewer heads of these than ranks, one of each."""
    heads, kv_heads, head_dim = graph.sizes["H"], graph.sizes["K"], graph.sizes["C"]
    return (heads // tp + 2 * max(1, kv_heads // tp)) * head_dim


def kv_copies(graph: Graph, layout: Layout) -> int:
    """Neighbouring ranks of tp that hold the same key/value head."""
    return max(1, layout.tp // graph.sizes["K"]) if "K" in graph.sizes else 1


def _rows(graph: Graph, op: Op, term: Term, sizes: dict[str, int], layout: Layout) -> int:
    """The dim that FSDP cuts. It is the first in the state dict: outputs come first in a matrix, experts before everything."""
    dims = term.dims
    if op.kind.startswith("expert"):
        is_cut = (len(dims) == 3 or layout.ep > 1) and _cuts_rows(graph, layout)
        return sizes[op.line.output.dims[-1]] if is_cut else sizes["E"]
    if op.group == "embedding":
        return sizes[dims[0]]
    contracted = set(op.line.inputs[0].dims)
    outputs = [sizes[dim] for dim in dims if dim not in contracted]
    return math.prod(outputs) if outputs else sizes[dims[0]]


def _expert_shape(op: Op, size: int, sizes: dict[str, int]) -> tuple[int, int]:
    rows = sizes[op.line.output.dims[-1]]
    return rows, size // (sizes["E"] * rows)


def _cuts_rows(graph: Graph, layout: Layout) -> bool:
    up = next(op for op in graph.all_ops if op.kind.startswith("expert") and op.line.inputs[0].dims[-1] == "D")
    sizes = shard(up, layout.degrees).sizes
    return cuts_rows_of_experts(
        sizes["E"],
        sharing=shards_of(layout, is_expert=layout.ep > 1),
        rows=sizes[up.line.output.dims[-1]],
        hidden_size=sizes["D"],
    )
