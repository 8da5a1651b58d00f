"""What one layer and one micro-batch communicate under a layout, and how much of it compute does not hide.

Volumes: tensor parallel four all-reduces of tokens · h a layer, each an all-gather and a reduce-scatter under sequence
parallelism; ZeRO-3 gathers weights twice and scatters gradients once; a ring passes keys and values on; experts take two
all-to-alls each way. Shares that stay exposed are fitted: constants.toml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.ops import Op
from ..topology.placement import expert_groups, runs, split
from ..topology.placement import group as group_of
from .collectives import (
    Group,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    broadcasts_s,
    dispatch_s,
    reduce_scatter_s,
    send_s,
)
from .compute import BlockTime
from .sharding import TENSOR_DIMS
from .software import OURS, Software

if TYPE_CHECKING:
    from ..planner.layout import Layout
    from ..topology.machine import Machine
    from .moments import Exchange

VALUE_BYTES = 2.0
GRADIENT_BYTES = 4.0


@dataclass(frozen=True)
class Traffic:
    """Seconds a layer and micro-batch, forward and backward."""

    tp_s: float
    cp_s: float
    ep_s: float
    fsdp_s: float
    exposed_s: float


def traffic_of(
    ops: tuple[Op, ...],
    layout: Layout,
    *,
    recompute: str,
    time: BlockTime,
    parameters: tuple[int, int],
    hidden_size: int,
    tokens: int,
    machine: Machine,
    software: Software = OURS,
) -> Traffic:
    """The traffic of one block, whose layers compute again what `recompute` says."""
    is_repeated = recompute == "full"
    rows = layout.micro_batch * tokens / layout.cp
    hidden_bytes = rows * hidden_size * VALUE_BYTES
    tp_s = _tensor_parallel_s(ops, layout, is_repeated=is_repeated, hidden_bytes=hidden_bytes, machine=machine)
    cp_s = _context_parallel_s(ops, layout, rows=rows, hidden_bytes=hidden_bytes, machine=machine)
    ep_s = _expert_parallel_s(
        ops,
        layout,
        is_repeated=is_repeated,
        hidden_bytes=hidden_bytes,
        machine=machine,
        is_hierarchical=software.kind == "tuned",
    )
    gradient_bytes = VALUE_BYTES if software.reduces_halves else GRADIENT_BYTES
    again_s = time.again_s(software.recomputed(recompute))
    fsdp_s, fsdp_exposed = _sharded_parameters_s(
        layout,
        windows_s=(time.forward_s, time.backward_s + again_s),
        parameters=parameters,
        weight_bytes=1.0 if software.gathers_bytes else VALUE_BYTES,
        gradient_bytes=gradient_bytes,
        machine=machine,
    )
    constants = machine.constants
    is_hidden = layout.sequence_parallel and software.overlaps
    tp_share = constants.tp_exposed_overlapped if is_hidden else constants.tp_exposed
    attention = time.by_class.get("attention", 0.0)
    cp_exposed = max(0.0, cp_s - constants.fsdp_window * attention) if layout.cp_kind != "ulysses" else cp_s
    exposed = tp_share * tp_s + cp_exposed + constants.ep_exposed * ep_s + fsdp_exposed
    return Traffic(tp_s=tp_s, cp_s=cp_s, ep_s=ep_s, fsdp_s=fsdp_s, exposed_s=exposed)


_reductions: dict[int, tuple[tuple[Op, ...], int]] = {}
"""By identity of the ops, which are kept so that it stays theirs: their hash takes longer than all else here."""


def num_reductions(ops: tuple[Op, ...]) -> int:
    """How often tensor parallelism sums over ranks in a forward pass: once after each product that sums a split dim.

    A routed and a shared expert are summed together.
    """
    if id(ops) not in _reductions:
        _reductions[id(ops)] = (ops, min(2, sum(1 for op in ops if _sums_split_dim(op))))
    return _reductions[id(ops)][1]


def _sums_split_dim(op: Op) -> bool:
    if op.group != "matmul":
        return False
    is_split = any(dim in TENSOR_DIMS for dim in op.line.inputs[0].dims)
    return is_split and not any(dim in TENSOR_DIMS for dim in op.line.output.dims)


def _tensor_parallel_s(
    ops: tuple[Op, ...], layout: Layout, *, is_repeated: bool, hidden_bytes: float, machine: Machine
) -> float:
    if layout.tp == 1:
        return 0.0
    group = group_of(layout, machine, "tp")
    passes = 2 + (1 if is_repeated else 0)
    return passes * num_reductions(ops) * all_reduce_s(hidden_bytes, group)


def _context_parallel_s(
    ops: tuple[Op, ...], layout: Layout, *, rows: float, hidden_bytes: float, machine: Machine
) -> float:
    """Ulysses: queries, keys, values and the result, there and back. Ring: c−1 steps, each passing a rank's keys and values on; their gradients travel with them on the way back."""
    if layout.cp == 1:
        return 0.0
    group = group_of(layout, machine, "cp")
    attention = next((op for op in ops if op.kind in ("attention", "eager_attention")), None)
    if (
        layout.cp_kind == "ulysses" and attention is not None and "U" in attention.sizes
    ):  # of latents, heads of two sizes
        widths = sum(_width(attention, term.dims[2:]) for term in (*attention.line.inputs[:3], attention.line.output))
        return 8 * all_to_all_s(rows * widths / 4 / layout.tp * VALUE_BYTES, group)
    if layout.cp_kind == "ulysses":
        return 8 * all_to_all_s(hidden_bytes / layout.tp, group)
    if attention is None:
        return 0.0
    _, keys, values = attention.line.inputs[:3]
    width = sum(_width(attention, term.dims[2:]) for term in (keys, values)) / layout.tp
    link = machine.fast if group.across == 1 else machine.slow
    return 3 * (layout.cp - 1) * send_s(rows * width * VALUE_BYTES, link)


def _width(op: Op, dims: tuple[str, ...]) -> int:
    size = 1
    for dim in dims:
        size *= op.sizes[dim]
    return size


def _expert_parallel_s(
    ops: tuple[Op, ...],
    layout: Layout,
    *,
    is_repeated: bool,
    hidden_bytes: float,
    machine: Machine,
    is_hierarchical: bool,
) -> float:
    """To the experts and back, forward and backward: each token's row goes to X experts.

    `is_hierarchical`: over the network once a node, and on from there; else an all-to-all of a copy for each expert.
    """
    dispatch = next((op for op in ops if op.kind == "dispatch"), None)
    if layout.ep == 1 or dispatch is None:
        return 0.0
    group, _ = expert_groups(layout, machine)
    # Ours: each rank of tp sends all tokens, to the ranks that have its part of the experts.
    row_bytes = hidden_bytes / (layout.tp if layout.sequence_parallel and is_hierarchical else 1)
    passes = 4 + (2 if is_repeated else 0)
    copies = dispatch.sizes["X"]
    if is_hierarchical:
        return passes * dispatch_s(row_bytes, group, copies=copies)
    return passes * all_to_all_s(copies * row_bytes, group)


def _sharded_parameters_s(
    layout: Layout,
    *,
    windows_s: tuple[float, float],
    parameters: tuple[int, int],
    weight_bytes: float,
    gradient_bytes: float,
    machine: Machine,
) -> tuple[float, float]:
    """(total, exposed) seconds of ZeRO-3: gather for the forward and the backward pass, scatter gradients.

    `windows_s` is the compute of a layer that they hide behind: forward; backward and what it computes again.
    """
    if layout.zero != 3 or layout.shards == 1:
        return 0.0, 0.0
    dense, experts = parameters
    group = group_of(layout, machine, "cp", "dp_shard")
    _, expert_group = expert_groups(layout, machine)
    gather = all_gather_s(dense * weight_bytes, group) + all_gather_s(experts * weight_bytes, expert_group)
    scatter = reduce_scatter_s(dense * gradient_bytes, group) + reduce_scatter_s(experts * gradient_bytes, expert_group)
    constants = machine.constants
    total, exposed = 0.0, 0.0
    for seconds, compute in zip((gather, gather + scatter), windows_s, strict=True):
        hidden = min(seconds, constants.fsdp_window * compute)
        total += seconds
        exposed += seconds - hidden + constants.slowdown * hidden
    return total, exposed


BUCKET = 40_000_000
"""Parameters whose gradients travel together (Megatron's default for large groups)."""


def gradient_s(
    parameters: float, layout: Layout, *, machine: Machine, gradient_bytes: float = GRADIENT_BYTES, ep: int = 1
) -> float:
    """Seconds a step that gradients travel between data-parallel ranks.

    ZeRO-0: an all-reduce. ZeRO-1 and 2: a reduce-scatter, and all-gathers of weights (updated_s), 2Ψ in all; once a step for
    both, as published layouts do, though a ZeRO-2 that scatters after every micro-batch would send more.
    ZeRO-3: only what replicas of the shards exchange; the rest travels with each layer. Parameters of experts that `ep`
    ranks divide among them have that many times fewer ranks that hold the same.
    """
    _, everyone = split(runs(layout, "cp", "dp_shard", "dp_replicate"), first=ep)
    if not everyone or parameters == 0:
        return 0.0
    buckets = max(1.0, parameters / BUCKET)
    if layout.zero == 0:
        return buckets * all_reduce_s(parameters / buckets * gradient_bytes, machine.group_of(everyone))
    group, replicas = _sharing(layout, machine, ep=ep), 0.0
    if layout.dp_replicate > 1:
        shard_bytes = parameters / group.size * gradient_bytes
        replicas = all_reduce_s(shard_bytes, group_of(layout, machine, "dp_replicate"))
    if layout.zero == 3 or group.size == 1:
        return replicas
    return replicas + buckets * reduce_scatter_s(parameters / buckets * gradient_bytes, group)


def updated_s(parameters: float, layout: Layout, *, machine: Machine, ep: int = 1, in_turn: bool = False) -> float:
    """Seconds a step that updated weights travel: under ZeRO-1 and 2, from the ranks that have updated them to all.

    `in_turn`: each rank broadcasts what it has updated, one after the other.
    """
    group = _sharing(layout, machine, ep=ep)
    if layout.zero not in (1, 2) or group.size == 1 or parameters == 0:
        return 0.0
    if in_turn:
        return broadcasts_s(parameters * VALUE_BYTES, group)
    buckets = max(1.0, parameters / BUCKET)
    return buckets * all_gather_s(parameters / buckets * VALUE_BYTES, group)


def _sharing(layout: Layout, machine: Machine, *, ep: int) -> Group:
    """Ranks that optimizer state is sharded over."""
    _, sharing = split(runs(layout, "cp", "dp_shard"), first=ep)
    return machine.group_of(sharing)


def update_exchange_s(exchanges: Iterable[tuple[Exchange, int]], layout: Layout, *, machine: Machine) -> float:
    """Seconds of what ranks exchange in the optimizer's step: parts of matrices, or sums over them. Nothing hides it."""
    seconds = 0.0
    for each, times in exchanges:
        if each.axis == "tp":
            factors = runs(layout, "tp")
        else:
            _, factors = split(runs(layout, "cp", "dp_shard"), first=layout.ep if each.axis == "same_experts" else 1)
        price = all_to_all_s if each.kind == "all_to_all" else all_reduce_s
        seconds += times * price(each.num_bytes, machine.group_of(factors))
    return seconds


def pass_on_s(layout: Layout, *, hidden_size: int, tokens: int, machine: Machine) -> float:
    """Seconds to hand one micro-batch's hidden state to the next pipeline rank; 0 without a pipeline.

    Each rank of a tensor-parallel group sends its part and gathers on the other side (Narayanan 2021b, section 4.1).
    """
    if layout.pp == 1:
        return 0.0
    size = layout.micro_batch * tokens / (layout.cp * layout.tp) * hidden_size * VALUE_BYTES
    is_near = layout.pp * layout.stride("pp") <= machine.domain
    return send_s(size, machine.fast if is_near else machine.slow)
