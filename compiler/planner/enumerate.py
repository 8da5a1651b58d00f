"""All layouts that a spec leaves open: divisors of the machine, with what the user wrote kept as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .layout import CpKind, Layout, Recompute, Schedule, Zero

if TYPE_CHECKING:
    from ...spec.parallel import Parallel
    from ..ir.graph import Graph
    from ..topology.machine import Machine

LONG_SEQUENCE = 32_768
"""Context parallelism is tried from here on: below, other degrees shrink activations at less cost."""
MAX_MICRO_BATCH = 16
"""On accelerators: beyond it, matrix products are long enough."""
MAX_MICRO_BATCH_CPU = 256
MAX_EXPERT_RANKS = 1024


@dataclass(frozen=True)
class Given:
    """What the user wrote; None is open. Without `rest: auto`, what they did not write is 1 or none."""

    dp_replicate: int | None = None
    dp_shard: int | None = None
    zero: Zero | None = None
    tp: int | None = None
    sequence_parallel: bool | None = None
    cp: int | None = None
    cp_kind: CpKind | None = None
    pp: int | None = None
    ep: int | None = None
    schedule: Schedule | None = None
    virtual_stages: int | None = None
    micro_batch: int | None = None
    grad_accumulation: int | None = None
    recompute: Recompute | None = None
    is_auto: bool = True


OPEN = Given()
"""Everything is the planner's."""


def given(parallel: Parallel) -> Given:
    """The fields of `parallel`; degrees that are not left to the planner get their plain value.

    A field that only means something with a degree above 1 is read only if it may be: otherwise it has no effect, and a
    key without effect is an error (spec/consumption.py).
    """
    auto = parallel.is_auto
    plain = None if auto else 1
    dp_shard, tp, cp, pp = (
        parallel.dp_shard or plain,
        parallel.tp or plain,
        parallel.cp or plain,
        parallel.pp or plain,
    )
    zero = parallel.zero if dp_shard != 1 or cp != 1 else None
    schedule = parallel.schedule if pp != 1 else None
    virtual_stages = parallel.virtual_stages if pp != 1 else None
    if not auto:
        zero = zero if zero is not None else (1 if (dp_shard or 1) * (cp or 1) > 1 else 0)
        virtual_stages = virtual_stages or (None if schedule == "interleaved_1f1b" else 1)
    return Given(
        dp_replicate=parallel.dp_replicate or plain,
        dp_shard=dp_shard,
        zero=zero,
        tp=tp,
        sequence_parallel=parallel.sequence_parallel if tp != 1 else None,
        cp=cp,
        cp_kind=parallel.cp_kind if cp != 1 else None,
        pp=pp,
        ep=parallel.ep or plain,
        schedule=schedule,
        virtual_stages=virtual_stages,
        micro_batch=parallel.micro_batch,
        grad_accumulation=parallel.grad_accumulation,
        recompute=parallel.recompute if parallel.recompute is not None or auto else "none",
        is_auto=auto,
    )


def layouts(
    wanted: Given, graph: Graph, machine: Machine, *, seq_len: int, global_batch: int | None
) -> Iterator[tuple[Layout, ...]]:
    """Every layout of the machine that keeps what was given, in groups: once a layout of a group fits, the rest of it are
    no faster (they recompute more, or shard more of the states).

    Rules (rules.py) are checked elsewhere.
    """
    devices = machine.num_devices
    for tp in _degrees(wanted.tp, devices, at_most=min(machine.domain, 16)):
        for cp in _degrees(wanted.cp, devices // tp, at_most=16 if seq_len >= LONG_SEQUENCE else 1):
            for pp in _degrees(wanted.pp, devices // (tp * cp), at_most=min(graph.num_layers, 64)):
                rest = devices // (tp * cp * pp)
                for dp_replicate, dp_shard in _data_parallel(wanted, rest, machine=machine, inner=tp * cp):
                    for ep in _expert_degrees(wanted, graph, ranks=dp_shard * cp):
                        mesh = _Mesh(dp_replicate, dp_shard, tp, cp, pp, ep)
                        yield from _fill(mesh, wanted, graph, machine, global_batch=global_batch)


@dataclass(frozen=True)
class _Mesh:
    dp_replicate: int
    dp_shard: int
    tp: int
    cp: int
    pp: int
    ep: int


def _fill(
    mesh: _Mesh, wanted: Given, graph: Graph, machine: Machine, *, global_batch: int | None
) -> Iterator[tuple[Layout, ...]]:
    """The choices that do not change the mesh."""
    has_tp = mesh.tp > 1
    sequence_parallel = has_tp if wanted.sequence_parallel is None else wanted.sequence_parallel
    recomputes: tuple[Recompute, ...] = ("none", "selective", "full")
    for micro_batch, accumulation in _batches(wanted, mesh, machine, global_batch=global_batch):
        for schedule, virtual in _schedules(wanted, mesh, graph, micro_batches=accumulation):
            for zeros in _zeros(wanted, mesh):
                yield tuple(
                    Layout(
                        dp_replicate=mesh.dp_replicate,
                        dp_shard=mesh.dp_shard,
                        zero=zero,
                        tp=mesh.tp,
                        sequence_parallel=sequence_parallel,
                        cp=mesh.cp,
                        pp=mesh.pp,
                        ep=mesh.ep,
                        schedule=schedule,
                        virtual_stages=virtual,
                        micro_batch=micro_batch,
                        grad_accumulation=accumulation,
                        recompute=recompute,
                        cp_kind=(wanted.cp_kind or "ring") if mesh.cp > 1 else None,
                    )
                    for recompute in (recomputes if wanted.recompute is None else (wanted.recompute,))
                    for zero in zeros
                )


def divisors(number: int, *, at_most: int) -> list[int]:
    """Divisors up to a bound, ascending."""
    return [each for each in range(1, min(number, at_most) + 1) if number % each == 0]


def _degrees(value: int | None, devices: int, *, at_most: int) -> Iterable[int]:
    if value is not None:
        return (value,) if devices % value == 0 else ()
    return divisors(devices, at_most=at_most)


def _data_parallel(wanted: Given, rest: int, *, machine: Machine, inner: int) -> Iterator[tuple[int, int]]:
    """(dp_replicate, dp_shard) with product `rest`: all sharded, or sharded inside a node and replicated across."""
    if wanted.dp_replicate is not None and wanted.dp_shard is not None:
        if wanted.dp_replicate * wanted.dp_shard == rest:
            yield wanted.dp_replicate, wanted.dp_shard
        return
    if wanted.dp_shard is not None or wanted.dp_replicate is not None:
        known = wanted.dp_shard or wanted.dp_replicate or 1
        if rest % known == 0:
            yield (rest // known, known) if wanted.dp_shard is not None else (known, rest // known)
        return
    yield 1, rest
    in_node = max(1, machine.domain // inner)
    if 1 < in_node < rest and rest % in_node == 0:
        yield rest // in_node, in_node


def _expert_degrees(wanted: Given, graph: Graph, *, ranks: int) -> Iterable[int]:
    if wanted.ep is not None:
        return (wanted.ep,)
    experts = graph.sizes.get("E")
    if experts is None:
        return (1,)
    return divisors(math.gcd(experts, ranks), at_most=MAX_EXPERT_RANKS)


def _zeros(wanted: Given, mesh: _Mesh) -> tuple[tuple[Zero, ...], ...]:
    """Levels that take equally long stand together, the simplest first: ZeRO-2 saves memory over ZeRO-1 and no time.

    Sharding inside a node with replicas across is tried for ZeRO-3, whose gathers it keeps off the network.
    """
    if wanted.zero is not None:
        return ((wanted.zero,),)
    if mesh.dp_shard * mesh.cp == 1:
        return ((0,),)
    return ((3,),) if mesh.dp_replicate > 1 and wanted.dp_replicate is None else ((1, 2), (3,))


def _batches(wanted: Given, mesh: _Mesh, machine: Machine, *, global_batch: int | None) -> Iterator[tuple[int, int]]:
    """(micro_batch, grad_accumulation) for what one data-parallel rank has to do in a step."""
    if global_batch is None:
        yield wanted.micro_batch or 1, wanted.grad_accumulation or 1
        return
    a_rank = max(1, global_batch // (mesh.dp_replicate * mesh.dp_shard))
    if wanted.micro_batch is not None:
        yield wanted.micro_batch, wanted.grad_accumulation or max(1, a_rank // wanted.micro_batch)
        return
    if wanted.grad_accumulation is not None:
        yield max(1, a_rank // wanted.grad_accumulation), wanted.grad_accumulation
        return
    for micro_batch in divisors(a_rank, at_most=MAX_MICRO_BATCH_CPU if machine.kind == "cpu" else MAX_MICRO_BATCH):
        yield micro_batch, a_rank // micro_batch


def _schedules(wanted: Given, mesh: _Mesh, graph: Graph, *, micro_batches: int) -> Iterator[tuple[Schedule, int]]:
    if mesh.pp == 1:
        yield wanted.schedule or "1f1b", wanted.virtual_stages or 1
        return
    if wanted.schedule is not None:
        is_interleaved = wanted.schedule == "interleaved_1f1b"
        for virtual in (wanted.virtual_stages,) if wanted.virtual_stages else (2, 4) if is_interleaved else (1,):
            yield wanted.schedule, virtual
        return
    if wanted.virtual_stages in (None, 1):
        yield "1f1b", 1
    for virtual in (2, 4) if wanted.virtual_stages is None else (wanted.virtual_stages,):
        if virtual > 1 and mesh.pp * virtual <= graph.num_layers and micro_batches % mesh.pp == 0:
            yield "interleaved_1f1b", virtual
