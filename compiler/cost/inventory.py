"""What a rank of our programs sends in a step: how many collectives of which kind over which axis, and their bytes.

The same numbers that `llmc verify` finds when it executes the program, so they follow the program and not a textbook: FSDP
pads rows, norms cut by sequence parallelism sum their gradients, the loss over a cut vocabulary reduces twice a chunk. The
size of a collective is what every rank ends up with (all_gather), starts from (all_reduce, reduce_scatter, all_to_all) or
sends (send): bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.ops import Op
from .communication import num_reductions
from .sharding import shard

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..planner.layout import Layout

WIDE = 4
"""Bytes of gradients, losses and whatever is summed over ranks."""


@dataclass(frozen=True, order=True)
class Shipment:
    """Collectives of one kind over one axis, all of a step."""

    axis: str
    """Of the mesh; `dp_shard+cp` the two as one, `world` all ranks."""
    kind: str
    count: int
    num_bytes: int


@dataclass(frozen=True)
class Setting:
    """What the inventory depends on beside graph and layout."""

    seq_len: int
    values: int
    """Bytes of an activation and of a gathered weight."""
    loss_chunk: int
    """Tokens whose logits exist at a time."""
    shard_rank: int = 0
    """Which of the shards of ZeRO: where rows do not divide, the last ones are shorter."""


class _Sums:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[tuple[str, str]] = Counter()

    def add(self, axis: str, kind: str, num_bytes: int, *, times: int = 1) -> None:
        if times:
            self.counts[axis, kind] += times
            self.sizes[axis, kind] += times * num_bytes

    def shipments(self) -> tuple[Shipment, ...]:
        return tuple(
            sorted(Shipment(axis, kind, count, self.sizes[axis, kind]) for (axis, kind), count in self.counts.items())
        )


def inventory(graph: Graph, layout: Layout, setting: Setting) -> tuple[Shipment, ...]:
    """Everything that one rank sends in a step, by axis and kind."""
    sums = _Sums()
    units = list(_units(graph, layout))
    _data_parallel(sums, units, layout, setting)
    if layout.tp > 1:
        _tensor_parallel(sums, graph, units, layout, setting)
    sums.add("world", "all_reduce", 2 * WIDE)  # the loss and the norm of the gradient
    return sums.shipments()


def state_bytes_of(graph: Graph, layout: Layout, setting: Setting, *, optimizer: str) -> tuple[int, int]:
    """(weights, moments) that one rank holds: fp32 shards, or whole tensors where nothing is sharded."""
    shards = layout.shards if layout.zero else 1
    held = sum(each.held(shards, setting.shard_rank) for unit in _units(graph, layout) for each in unit)
    return held * WIDE, held * MOMENTS[optimizer] * WIDE


MOMENTS = {"adamw": 2, "lion": 1, "sophia": 2, "muon": 1}
"""Numbers that an optimizer keeps a parameter."""

# ------------------------------------------------------------------------------------------------- parameters and ZeRO


@dataclass(frozen=True)
class _Stored:
    """A parameter as the program stores it on a rank, before ZeRO."""

    rows: int
    columns: int
    is_whole: bool = False
    """tp does not cut it."""
    sees_heads: bool = False
    """Not cut, and used on the rank's heads alone (a norm of queries or keys)."""
    copied_from: int | None = None
    """The first of the rows that several ranks of tp hold: keys and values with fewer heads than ranks."""

    def padded(self, shards: int) -> int:
        """Elements of all shards together: FSDP gives each rank equally many rows."""
        return math.ceil(self.rows / shards) * shards * self.columns

    def held(self, shards: int, rank: int, *, since: int = 0) -> int:
        """Elements of the rows from `since` on that one of the shards has."""
        run = math.ceil(self.rows / shards)
        start, stop = max(since, rank * run), min(self.rows, (rank + 1) * run)
        return max(0, stop - start) * self.columns


def _units(graph: Graph, layout: Layout) -> Iterator[tuple[_Stored, ...]]:
    """What FSDP gathers together: the parameters of each layer, then all others."""
    classes = {block.name: tuple(_stored(graph, graph.block_ops(block.name), layout)) for block in graph.blocks}
    yield from (classes[name] for name in graph.order)
    yield tuple(_stored(graph, graph.trunk(), layout))


def _stored(graph: Graph, ops: Iterable[Op], layout: Layout) -> Iterator[_Stored]:
    for op in ops:
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
            rows = _rows(op, term.dims, sizes)
            yield _Stored(
                rows,
                size // rows,
                is_whole=size == term.size(op.sizes),
                sees_heads=op.name in ("attn.q_norm", "attn.k_norm"),
                copied_from=rows - 2 * graph.sizes["C"]
                if op.kind == "fused_qkv" and kv_copies(graph, layout) > 1
                else None,
            )


def _qkv_rows(graph: Graph, tp: int) -> int:
    """Queries of a rank's heads, and its keys and values: with fewer heads of these than ranks, one of each."""
    heads, kv_heads, head_dim = graph.sizes["H"], graph.sizes["K"], graph.sizes["C"]
    return (heads // tp + 2 * max(1, kv_heads // tp)) * head_dim


def kv_copies(graph: Graph, layout: Layout) -> int:
    """Neighbouring ranks of tp that hold the same key/value head."""
    return max(1, layout.tp // graph.sizes["K"]) if "K" in graph.sizes else 1


def _rows(op: Op, dims: tuple[str, ...], sizes: dict[str, int]) -> int:
    """The first dim in the state dict: outputs come first in a matrix, experts before everything."""
    if op.group == "embedding" or op.kind.startswith("expert"):
        return sizes[dims[0]]
    contracted = set(op.line.inputs[0].dims)
    outputs = [sizes[dim] for dim in dims if dim not in contracted]
    return math.prod(outputs) if outputs else sizes[dims[0]]


def _data_parallel(sums: _Sums, units: list[tuple[_Stored, ...]], layout: Layout, setting: Setting) -> None:
    """Weights gathered and gradients summed, by the level of ZeRO (runtimes/pytorch/parallel/data.py)."""
    shards, steps = layout.shards, layout.grad_accumulation
    axis = shards_axis(layout)
    replicates = layout.dp_replicate > 1
    if layout.zero == 0 or shards == 1:
        ranks = shards * layout.dp_replicate
        for unit in units if ranks > 1 else ():
            sums.add(data_axis(layout), "all_reduce", sum(each.rows * each.columns for each in unit) * WIDE)
        return
    last = len(units) - 1
    for number, unit in enumerate(units):
        padded = sum(each.padded(shards) for each in unit)
        gathers = (1 if number == last else 2) * steps if layout.zero == 3 else 1
        sums.add(axis, "all_gather", padded * setting.values, times=gathers)
        sums.add(axis, "reduce_scatter", padded * WIDE, times=steps if layout.zero >= 2 else 1)
        if replicates:
            sums.add("dp_replicate", "all_reduce", padded // shards * WIDE)


def shards_axis(layout: Layout) -> str:
    """The axis that model states are sharded over."""
    return "+".join(name for name in ("dp_shard", "cp") if getattr(layout, name) > 1) or "dp_shard"


def data_axis(layout: Layout) -> str:
    """The axis that gradients are summed over where nothing is sharded."""
    return "+".join(name for name in ("dp_replicate", "dp_shard", "cp") if getattr(layout, name) > 1)


# ---------------------------------------------------------------------------------------------------- tensor parallelism


def _tensor_parallel(
    sums: _Sums, graph: Graph, units: list[tuple[_Stored, ...]], layout: Layout, setting: Setting
) -> None:
    """Around each cut layer, forward and backward; around the cut vocabulary; gradients of what is not cut."""
    steps = layout.grad_accumulation
    tokens = layout.micro_batch * setting.seq_len // layout.cp
    hidden = tokens * graph.sizes["D"] * setting.values
    cuts = sum(num_reductions(graph.block_ops(name)) for name in graph.order)
    # What is computed again communicates again: attention from its gathered input to its heads, or a layer but for its
    # last sum, which nothing in the backward pass asks for.
    into = {"none": 0, "selective": graph.num_layers, "full": cuts}[layout.recompute]
    out = cuts - graph.num_layers if layout.recompute == "full" else 0
    if layout.sequence_parallel:
        # Into and out of each cut layer, out of the embedding, into the head: and back. What goes into a cut layer is
        # gathered again for the gradient of its weights.
        sums.add("tp", "all_gather", hidden, times=(3 * cuts + 2 + into) * steps)
        sums.add("tp", "reduce_scatter", hidden, times=(2 * cuts + 2 + out) * steps)
    else:
        sums.add("tp", "all_reduce", hidden, times=(2 * cuts + 2 + out) * steps)
    _shared_gradients(sums, graph, units, layout, setting)
    for chunk in _chunks(tokens, setting.loss_chunk):
        sums.add("tp", "all_reduce", chunk * WIDE, times=steps)  # the largest logit of each token
        sums.add("tp", "all_reduce", 2 * chunk * WIDE, times=steps)  # the exponentials' sum, the target's logit


def _shared_gradients(
    sums: _Sums, graph: Graph, units: list[tuple[_Stored, ...]], layout: Layout, setting: Setting
) -> None:
    """Of what ranks of tp hold alike and each sees a share of: norms and biases, keys and values held twice; in one sum."""
    shards, copies = layout.shards if layout.zero else 1, kv_copies(graph, layout)
    of_tp, of_copies = 0, 0
    for each in (each for unit in units for each in unit):
        if each.is_whole and (layout.sequence_parallel or each.sees_heads):
            of_tp += each.held(shards, setting.shard_rank)
        if each.copied_from is not None:
            held = each.held(shards, setting.shard_rank, since=each.copied_from)
            of_tp, of_copies = (of_tp + held, of_copies) if copies == layout.tp else (of_tp, of_copies + held)
    sums.add("tp", "all_reduce", of_tp * WIDE, times=1 if of_tp else 0)
    sums.add("kv", "all_reduce", of_copies * WIDE, times=1 if of_copies else 0)


def _chunks(tokens: int, chunk: int) -> Iterator[int]:
    for start in range(0, tokens, chunk):
        yield min(chunk, tokens - start)
