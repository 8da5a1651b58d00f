"""What a rank of our programs sends in a step: how many collectives of which kind over which axis, and their bytes.

The same numbers that `llmc verify` finds when it executes the program, so they follow the program and not a textbook: FSDP
pads rows, norms cut by sequence parallelism sum their gradients, the loss over a cut vocabulary reduces twice a chunk. The
size of a collective is what every rank ends up with (all_gather), starts from (all_reduce, reduce_scatter, all_to_all) or
sends (send): bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.ops import Op
from .communication import num_reductions
from .pipeline import Stage, stages_of_rank
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
    stage_rank: int = 0
    """Which of the ranks of the pipeline."""


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
    stages = stages_of_rank(layout, num_layers=graph.num_layers, rank=setting.stage_rank)
    units = [unit for stage in stages for unit in _units(graph, layout, stage)]
    _data_parallel(sums, units, layout, setting)
    if layout.tp > 1:
        _tensor_parallel(sums, graph, stages, layout, setting)
        _shared_gradients(sums, graph, units, layout, setting)
    if layout.pp > 1:
        _pipeline(sums, graph, stages, layout, setting)
    sums.add("world", "all_reduce", 2 * WIDE)  # the loss and the norm of the gradient
    return sums.shipments()


def state_bytes_of(graph: Graph, layout: Layout, setting: Setting, *, optimizer: str) -> tuple[int, int]:
    """(weights, moments) that one rank holds: fp32 shards, or whole tensors where nothing is sharded."""
    shards = layout.shards if layout.zero else 1
    stages = stages_of_rank(layout, num_layers=graph.num_layers, rank=setting.stage_rank)
    has_first = any(stage.has_embed for stage in stages)  # then a copy beside it has no state of its own
    units = (unit for stage in stages for unit in _units(graph, layout, stage, counts_copies=not has_first))
    held = sum(each.held(shards, setting.shard_rank) for unit in units for each in unit.tensors)
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


@dataclass(frozen=True)
class _Unit:
    """What FSDP gathers together: a layer, or what no layer of a stage has."""

    tensors: tuple[_Stored, ...]
    is_root: bool = False


def _units(graph: Graph, layout: Layout, stage: Stage, *, counts_copies: bool = True) -> Iterator[_Unit]:
    """The units of one stage. `counts_copies`: a tied embedding that the head has, beside the first stage's."""
    classes = {block.name: tuple(_stored(graph, graph.block_ops(block.name), layout)) for block in graph.blocks}
    yield from (_Unit(classes[graph.order[number]]) for number in stage.layers)
    below, above = _trunk(graph)
    tensors = [*_stored(graph, below, layout)] if stage.has_embed else []
    tensors += [*_stored(graph, above, layout)] if stage.has_head else []
    if stage.has_head and not stage.has_embed and counts_copies and (tied := _tied_embedding(graph, layout)):
        tensors.append(tied)
    if tensors:
        yield _Unit(tuple(tensors), is_root=True)


def _trunk(graph: Graph) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """The ops before the layers, and those after them."""
    ops = graph.trunk()
    layers = next(number for number, op in enumerate(ops) if op.kind == "layers")
    return ops[:layers], ops[layers:]


def _tied_embedding(graph: Graph, layout: Layout) -> _Stored | None:
    """The embedding, if the head's weight is tied to it."""
    below, above = _trunk(graph)
    is_tied = any(param.tied_to is not None for op in above for param, _ in op.param_terms)
    return next(iter(_stored(graph, below, layout))) if is_tied else None


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


def _data_parallel(sums: _Sums, units: list[_Unit], layout: Layout, setting: Setting) -> None:
    """Weights gathered and gradients summed, by the level of ZeRO (runtimes/pytorch/parallel/data.py)."""
    shards, steps = layout.shards, layout.grad_accumulation
    axis = shards_axis(layout)
    replicates = layout.dp_replicate > 1
    if layout.zero == 0 or shards == 1:
        ranks = shards * layout.dp_replicate
        for unit in units if ranks > 1 else ():
            sums.add(data_axis(layout), "all_reduce", sum(each.rows * each.columns for each in unit.tensors) * WIDE)
        return
    in_stages = layout.pp > 1  # which keep what no layer has gathered for the whole step (stage.py)
    for unit in units:
        padded = sum(each.padded(shards) for each in unit.tensors)
        of_level_3 = (1 if in_stages else steps) if unit.is_root else 2 * steps
        gathers = of_level_3 if layout.zero == 3 else 1
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


def _tensor_parallel(sums: _Sums, graph: Graph, stages: Sequence[Stage], layout: Layout, setting: Setting) -> None:
    """Around each cut layer, forward and backward; around the cut vocabulary."""
    steps = layout.grad_accumulation
    tokens = layout.micro_batch * setting.seq_len // layout.cp
    hidden = tokens * graph.sizes["D"] * setting.values
    ends = sum(stage.has_embed + stage.has_head for stage in stages)
    hows = layout.recompute_of_layers(graph.num_layers)
    cuts, into, out = 0, 0, 0
    for number in (number for stage in stages for number in stage.layers):
        reductions = num_reductions(graph.block_ops(graph.order[number]))
        # What is computed again communicates again: attention from its gathered input to its heads, or a layer but for its
        # last sum, which nothing in the backward pass asks for.
        cuts += reductions
        into += {"none": 0, "selective": 1, "full": reductions}[hows[number]]
        out += reductions - 1 if hows[number] == "full" else 0
    if layout.sequence_parallel:
        # Into and out of each cut layer, out of the embedding, into the head: and back. What goes into a cut layer is
        # gathered again for the gradient of its weights.
        sums.add("tp", "all_gather", hidden, times=(3 * cuts + ends + into) * steps)
        sums.add("tp", "reduce_scatter", hidden, times=(2 * cuts + ends + out) * steps)
    else:
        sums.add("tp", "all_reduce", hidden, times=(2 * cuts + ends + out) * steps)
    if not any(stage.has_head for stage in stages):
        return
    for chunk in _chunks(tokens, setting.loss_chunk):
        sums.add("tp", "all_reduce", chunk * WIDE, times=steps)  # the largest logit of each token
        sums.add("tp", "all_reduce", 2 * chunk * WIDE, times=steps)  # the exponentials' sum, the target's logit


def _shared_gradients(sums: _Sums, graph: Graph, units: list[_Unit], layout: Layout, setting: Setting) -> None:
    """Of what ranks of tp hold alike and each sees a share of: norms and biases, keys and values held twice; in one sum."""
    shards, copies = layout.shards if layout.zero else 1, kv_copies(graph, layout)
    of_tp, of_copies = 0, 0
    for each in (each for unit in units for each in unit.tensors):
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


# --------------------------------------------------------------------------------------------------------------- stages


def _pipeline(sums: _Sums, graph: Graph, stages: Sequence[Stage], layout: Layout, setting: Setting) -> None:
    """Hidden states to the next stage and their gradients to the one before; the gradient of a tied embedding."""
    steps = layout.grad_accumulation
    parts = layout.tp if layout.sequence_parallel else 1
    values = (
        setting.values if layout.data_parallel * layout.cp > 1 else WIDE
    )  # under autocast the residual stream is fp32
    hidden = layout.micro_batch * setting.seq_len // layout.cp // parts * graph.sizes["D"] * values
    own = {stage.number for stage in stages}
    last = layout.pp * layout.virtual_stages - 1
    for stage in stages:
        is_fed = stage.number > 0 and stage.number - 1 not in own
        feeds = stage.number < last and stage.number + 1 not in own
        sums.add("pp", "recv", hidden, times=(is_fed + feeds) * steps)
        sums.add("pp", "send", hidden, times=(is_fed + feeds) * steps)
    tied = _tied_embedding(graph, layout)
    if tied is not None and any(stage.has_embed != stage.has_head for stage in stages) and not {0, last} <= own:
        size = tied.held(layout.shards if layout.zero else 1, setting.shard_rank) * WIDE
        for kind in ("recv", "send"):
            sums.add("pp", kind, size, times=1 if size else 0)
