"""What a rank of our programs sends in a step: how many collectives of which kind over which axis, and their bytes.

The same numbers that `llmc verify` finds when it executes the program, so they follow the program and not a textbook: FSDP
pads rows, norms cut by sequence parallelism sum their gradients, the loss over a cut vocabulary reduces twice a chunk. The
size of a collective is what every rank ends up with (all_gather), starts from (all_reduce, reduce_scatter, all_to_all) or
sends (send): bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .communication import num_reductions
from .exchange import Batch, exchanges
from .moments import ADAMW, Kept, exchanges_of
from .pipeline import Stage, stages_of_rank
from .stored import WIDE, Unit, held_by, kv_copies, shards_axis, shards_of, tied_embedding, units_of

if TYPE_CHECKING:
    from ..ir.graph import Graph
    from ..ir.ops import Op
    from ..planner.layout import Layout


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
    kept: Kept = ADAMW
    """The optimizer, and what it keeps."""


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
    units = [unit for stage in stages for unit in units_of(graph, layout, stage)]
    _data_parallel(sums, units, layout, setting)
    if layout.tp > 1:
        _tensor_parallel(sums, graph, stages, layout, setting)
        _shared_gradients(sums, graph, units, layout, setting)
    if layout.pp > 1:
        _pipeline(sums, graph, stages, layout, setting)
    _exchanges(sums, graph, stages, layout, setting)
    _visits(sums, graph, layout)
    for each in exchanges_of(setting.kept, units, layout, values=setting.values, shard_rank=setting.shard_rank):
        sums.add(each.axis, each.kind, each.num_bytes)
    sums.add("world", "all_reduce", 2 * WIDE)  # the loss and the norm of the gradient
    return sums.shipments()


def state_bytes_of(graph: Graph, layout: Layout, setting: Setting) -> tuple[int, int]:
    """(weights, what the optimizer keeps) that one rank holds: fp32 shards, or whole tensors where nothing is sharded."""
    stages = stages_of_rank(layout, num_layers=graph.num_layers, rank=setting.stage_rank)
    has_first = any(stage.has_embed for stage in stages)  # then a copy beside it has no state of its own
    weights = kept = 0
    for unit in (unit for stage in stages for unit in units_of(graph, layout, stage, counts_copies=not has_first)):
        for tensor in unit.tensors:
            held = held_by(tensor, layout, setting.shard_rank)
            weights += held * WIDE
            kept += setting.kept.of(tensor, held=held, in_layer=not unit.is_root)
    return weights, kept


# ------------------------------------------------------------------------------------------------- parameters and ZeRO


def _data_parallel(sums: _Sums, units: list[Unit], layout: Layout, setting: Setting) -> None:
    """Weights gathered and gradients summed, by the level of ZeRO (runtimes/pytorch/parallel/data.py)."""
    if layout.data_parallel * layout.cp == 1:
        return
    steps, is_sharded = layout.grad_accumulation, layout.zero > 0 and layout.shards > 1
    in_stages = layout.pp > 1  # which keep what no layer has gathered for the whole step (stage.py)
    for unit in units:
        shards = shards_of(layout, is_expert=unit.is_expert)
        if not is_sharded:
            axis = _joined(layout, "dp_replicate", "same_experts") if unit.is_expert else data_axis(layout)
            size = sum(each.rows * each.columns for each in unit.tensors)
            sums.add(axis, "all_reduce", size * WIDE)
            continue
        axis = "same_experts" if unit.is_expert else shards_axis(layout)
        padded = sum(each.padded(shards) for each in unit.tensors)
        of_level_3 = (1 if in_stages else steps) if unit.is_root else 2 * steps
        gathers = of_level_3 if layout.zero == 3 else 1
        if shards > 1:
            sums.add(axis, "all_gather", padded * setting.values, times=gathers)
            sums.add(axis, "reduce_scatter", padded * WIDE, times=steps if layout.zero >= 2 else 1)
        if layout.dp_replicate > 1:
            sums.add("dp_replicate", "all_reduce", padded // shards * WIDE)


def _joined(layout: Layout, *names: str) -> str:
    """Those of the axes that have several ranks, as one."""
    sizes = {"dp_replicate": layout.dp_replicate, "same_experts": layout.shards // layout.ep}
    return "+".join(name for name in names if sizes[name] > 1) or names[-1]


def data_axis(layout: Layout) -> str:
    """The axis that gradients are summed over where nothing is sharded."""
    return "+".join(name for name in ("dp_replicate", "dp_shard", "cp") if getattr(layout, name) > 1)


# ---------------------------------------------------------------------------------------------------- tensor parallelism


def _tensor_parallel(sums: _Sums, graph: Graph, stages: Sequence[Stage], layout: Layout, setting: Setting) -> None:
    """Around each cut layer, forward and backward; around the cut vocabulary."""
    steps = layout.grad_accumulation
    tokens = layout.micro_batch * setting.seq_len // layout.cp
    hidden = tokens * graph.sizes["D"] * setting.values
    hows = layout.recompute_of_layers(graph.num_layers)
    for number in (number for stage in stages for number in stage.layers):
        for cut in _cuts(graph.block_ops(graph.order[number]), recompute=hows[number]):
            size = tokens * cut.width * setting.values
            if layout.sequence_parallel:
                sums.add("tp", "all_gather", size, times=cut.gathers * steps)
                sums.add("tp", "reduce_scatter", size, times=cut.scatters * steps)
            else:
                sums.add("tp", "all_reduce", size, times=cut.reductions * steps)
    is_autocast = layout.data_parallel * layout.cp == 1  # then the embedding gives fp32
    first = hidden // setting.values * WIDE if is_autocast else hidden
    for kind in ("all_gather", "reduce_scatter") if layout.sequence_parallel else ("all_reduce",):
        sums.add("tp", kind, first, times=sum(stage.has_embed for stage in stages) * steps)  # out of it, and back
        sums.add("tp", kind, hidden, times=sum(stage.has_head for stage in stages) * steps)  # into the head, and back
    if not any(stage.has_head for stage in stages):
        return
    for chunk in _chunks(tokens, setting.loss_chunk):
        sums.add("tp", "all_reduce", chunk * WIDE, times=steps)  # the largest logit of each token
        sums.add("tp", "all_reduce", 2 * chunk * WIDE, times=steps)  # the exponentials' sum, the target's logit


@dataclass(frozen=True)
class _Cut:
    """How often numbers of one width travel, a token each, in one layer and micro-batch."""

    width: int
    gathers: int = 0
    """With sequence parallelism."""
    scatters: int = 0
    reductions: int = 0
    """Without."""


def _cuts(ops: tuple[Op, ...], *, recompute: str) -> Iterator[_Cut]:
    """Where activations cross into layers that are cut, and out of them.

    What is computed again communicates again: attention from its gathered input to its heads, or a layer but for its last
    sum, which nothing in the backward pass asks for.
    """
    width = next(op.sizes["D"] for op in ops if "D" in op.sizes)
    again_attention, again = int(recompute != "none"), int(recompute == "full")
    # Out: a sum and its way back.
    yield _Cut(width, gathers=1, scatters=1 + again, reductions=1 + again)
    # Into: gathered, and again for the gradient of the weights; the gradients' sum. Latents cross in place of the input.
    names = {op.name: op for op in ops}
    crossing = [(width, True)] if "attn.k_up" not in names or "attn.q_up" not in names else []
    if "attn.k_up" in names:
        latents = [names[name].sizes[dim] for name, dim in (("attn.q_up", "Q"), ("attn.k_up", "L")) if name in names]
        crossing += [*((size, True) for size in latents), (names["attn.rope_key"].sizes["R"], False)]
    for size, is_product in crossing:
        yield _Cut(size, gathers=1 + is_product + again_attention, scatters=1, reductions=1)
    if num_reductions(ops) < 2:
        return
    yield _Cut(width, gathers=1, scatters=1, reductions=1)
    has_experts = any(op.kind == "dispatch" for op in ops)  # whose tokens stay gathered
    yield _Cut(width, gathers=1 + (not has_experts) + again, scatters=1, reductions=1)


def _shared_gradients(sums: _Sums, graph: Graph, units: list[Unit], layout: Layout, setting: Setting) -> None:
    """Of what ranks of tp hold alike and each sees a share of: norms and biases, keys and values held twice; in one sum."""
    copies = kv_copies(graph, layout)
    of_tp, of_copies = 0, 0
    for each in (each for unit in units for each in unit.tensors):
        if each.is_whole and (layout.sequence_parallel or each.is_partial):
            of_tp += held_by(each, layout, setting.shard_rank)
        if each.copied_from is not None:
            held = held_by(each, layout, setting.shard_rank, since=each.copied_from)
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
    tied = tied_embedding(graph, layout)
    if tied is not None and any(stage.has_embed != stage.has_head for stage in stages) and not {0, last} <= own:
        size = held_by(tied, layout, setting.shard_rank) * WIDE
        for kind in ("recv", "send"):
            sums.add("pp", kind, size, times=1 if size else 0)


# ---------------------------------------------------------------------------------------------- experts, cut sequences


def _exchanges(sums: _Sums, graph: Graph, stages: Sequence[Stage], layout: Layout, setting: Setting) -> None:
    batch = Batch(layout.micro_batch, setting.seq_len // layout.cp, setting.values)
    hows = layout.recompute_of_layers(graph.num_layers)
    for number in (number for stage in stages for number in stage.layers):
        for each in exchanges(graph.block_ops(graph.order[number]), layout, batch, recompute=hows[number]):
            sums.add(each.axis, each.kind, each.num_bytes, times=each.times * layout.grad_accumulation)


def _visits(sums: _Sums, graph: Graph, layout: Layout) -> None:
    """How often experts were visited, which moves the bias that balances them; in a pipeline with zeros for others' layers."""
    routes = {op.block: op for op in graph.all_ops if op.kind == "route"}
    if not any(param.name == "balance_bias" for op in routes.values() for param in op.params):
        return
    layers = graph.num_layers if layout.pp > 1 else sum(1 for block in graph.order if block in routes)
    sums.add("world", "all_reduce", layers * graph.sizes["E"] * WIDE)
