"""All layouts that a spec leaves open: divisors of the machine, with what the user wrote kept as it is.

In two levels, for the search: a `Family` has the degrees and the micro-batch, its members differ in how data-parallel ranks
share states and in the pipeline's schedule. Stages and recompute are open still (assign.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from .layout import ORDER, Axis, CpKind, LayerRecompute, Layout, Offload, Schedule, Zero
from .ranks import Outer

if TYPE_CHECKING:
    from ...spec.parallel import Parallel
    from ..ir.graph import Graph
    from ..topology.machine import Machine

LEAST_CONTEXT = 4_096
"""Tokens of a sequence that a context-parallel rank keeps at least: with fewer, other degrees shrink activations at less cost."""
MAX_CONTEXT_RANKS = 32
MAX_TENSOR_RANKS = 16
MAX_STAGES = 128
MAX_VIRTUAL_STAGES = 12
"""And as many as make each stage a single layer."""
MAX_MICRO_BATCH = 128
MAX_MICRO_BATCH_CPU = 256
MAX_EXPERT_RANKS = 1024
RECOMPUTES: tuple[LayerRecompute, ...] = ("none", "selective", "full")
SPLITS_BACKWARD: tuple[Schedule, ...] = ("zero_bubble", "dualpipe")
"""Schedules that run the backward pass in two parts; computing a layer again would run for each of them."""


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
    recompute: LayerRecompute | None = None
    stages: tuple[int, ...] | None = None
    order: tuple[Axis, ...] | None = None
    offload: Offload | Literal["auto"] | None = None
    """auto is decided before anything is enumerated (train_plan.py)."""
    is_auto: bool = True

    @property
    def kept_on_host(self) -> Offload | None:
        return "optimizer" if self.offload == "optimizer" else None


OPEN = Given()
"""Everything is the planner's."""


def given(parallel: Parallel) -> Given:
    """The fields of `parallel`; degrees that are not left to the planner get their plain value.

    A field that only means something with a degree above 1 is read only if it may be: otherwise it has no effect, and a
    key without effect is an error (spec/consumption.py). How layers fall onto stages is the planner's unless it is given.
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
    stages = parallel.stages if pp != 1 else None
    if not auto:
        zero = zero if zero is not None else (1 if (dp_shard or 1) * (cp or 1) > 1 else 0)
        virtual_stages = virtual_stages or (None if schedule in ("interleaved_1f1b", "dualpipe") else 1)
        schedule = schedule or "1f1b"
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
        stages=tuple(stages) if stages is not None else None,
        order=tuple(parallel.order) if parallel.order is not None else None,
        offload=parallel.offload if parallel.offload != "none" else None,
        is_auto=auto,
    )


@dataclass(frozen=True)
class Family:
    """Layouts of one mesh and micro-batch. `first` is one of them, the plainest."""

    first: Layout
    wanted: Given
    graph: Graph
    machine: Machine

    @property
    def recomputes(self) -> tuple[LayerRecompute, ...]:
        return RECOMPUTES if self.wanted.recompute is None else (self.wanted.recompute,)

    @cached_property
    def schedules(self) -> tuple[tuple[Schedule, int], ...]:
        """(schedule, stages a rank), the one with fewest micro-batches in flight first."""
        return tuple(_schedules(self.wanted, self.first, self.graph))

    @property
    def num_members(self) -> int:
        return len(self.schedules) * self.num_sharings

    @cached_property
    def num_sharings(self) -> int:
        return sum(len(zeros) for _, _, zeros in self.sharings())

    def sharings(self) -> Iterator[tuple[int, int, tuple[Zero, ...]]]:
        """(dp_replicate, dp_shard, levels of ZeRO)"""
        first = self.first
        for dp_replicate, dp_shard in _data_parallel(self.wanted, first, machine=self.machine):
            shards = dp_shard * first.cp
            if shards % first.ep == 0:
                yield dp_replicate, dp_shard, _zeros(self.wanted, dp_replicate=dp_replicate, shards=shards)

    def branches(self) -> Iterator[Branch]:
        """Its layouts by schedule."""
        for schedule, virtual in self.schedules:
            splits = schedule in SPLITS_BACKWARD and self.wanted.schedule is None
            yield Branch(self, schedule, virtual, self.recomputes[:1] if splits else self.recomputes)

    def members(self) -> Iterator[Outer]:
        """All of them."""
        for branch in self.branches():
            yield from branch.members()


@dataclass(frozen=True)
class Branch:
    """Layouts of a family with one schedule; they differ in how data-parallel ranks share states."""

    family: Family
    schedule: Schedule
    virtual_stages: int
    recomputes: tuple[LayerRecompute, ...]

    @property
    def num_members(self) -> int:
        return self.family.num_sharings

    def members(self) -> Iterator[Outer]:
        family, wanted, first = self.family, self.family.wanted, self.family.first
        for dp_replicate, dp_shard, zeros in family.sharings():
            for zero in zeros:
                yield Outer(
                    Layout(
                        dp_replicate=dp_replicate,
                        dp_shard=dp_shard,
                        zero=zero,
                        tp=first.tp,
                        sequence_parallel=first.sequence_parallel,
                        cp=first.cp,
                        pp=first.pp,
                        ep=first.ep,
                        schedule=self.schedule,
                        virtual_stages=self.virtual_stages,
                        micro_batch=first.micro_batch,
                        grad_accumulation=first.grad_accumulation,
                        recompute=self.recomputes[0],
                        cp_kind=first.cp_kind,
                        stages=wanted.stages,
                        order=wanted.order if wanted.order != ORDER else None,
                        offload=wanted.kept_on_host,
                    ),
                    recomputes=self.recomputes,
                    may_mix=family.machine.num_devices > 1,  # programs of one device treat all layers alike
                    are_stages_open=wanted.stages is None and first.pp > 1,
                )

    @property
    def leanest(self) -> Layout:
        """A member that needs no more memory than any other: most is sharded."""
        dp_replicate, dp_shard, zeros = min(self.family.sharings(), key=lambda sharing: sharing[0])
        return replace(
            self.family.first,
            dp_replicate=dp_replicate,
            dp_shard=dp_shard,
            zero=max(zeros),
            schedule=self.schedule,
            virtual_stages=self.virtual_stages,
            recompute=self.recomputes[-1],
        )


def families(
    wanted: Given, graph: Graph, machine: Machine, *, seq_len: int, global_batch: int | None
) -> Iterator[Family]:
    """Every mesh of the machine, and every micro-batch, that keeps what was given. Rules (rules.py) are checked elsewhere."""
    devices = machine.num_devices
    most_cp = max(1, min(MAX_CONTEXT_RANKS, seq_len // LEAST_CONTEXT))
    for tp in _degrees(wanted.tp, devices, at_most=min(machine.domain, MAX_TENSOR_RANKS)):
        sequence_parallel = tp > 1 if wanted.sequence_parallel is None else wanted.sequence_parallel
        for cp in _degrees(wanted.cp, devices // tp, at_most=most_cp):
            for pp in _degrees(wanted.pp, devices // (tp * cp), at_most=min(graph.num_layers, MAX_STAGES)):
                rest = devices // (tp * cp * pp)
                for ep in _expert_degrees(wanted, graph, ranks=rest * cp):
                    for micro_batch, accumulation in _batches(wanted, rest, machine, global_batch=global_batch):
                        for cp_kind in _cp_kinds(wanted, cp):
                            first = Layout(
                                dp_shard=rest,
                                zero=1 if rest * cp > 1 else 0,
                                tp=tp,
                                sequence_parallel=sequence_parallel,
                                cp=cp,
                                pp=pp,
                                ep=ep,
                                micro_batch=micro_batch,
                                grad_accumulation=accumulation,
                                cp_kind=cp_kind,
                                offload=wanted.kept_on_host,
                            )
                            yield Family(first, wanted, graph, machine)


def divisors(number: int, *, at_most: int) -> list[int]:
    """Divisors up to a bound, ascending."""
    return [each for each in range(1, min(number, at_most) + 1) if number % each == 0]


def _degrees(value: int | None, devices: int, *, at_most: int) -> Iterable[int]:
    if value is not None:
        return (value,) if devices % value == 0 else ()
    return divisors(devices, at_most=at_most)


def _data_parallel(wanted: Given, first: Layout, *, machine: Machine) -> Iterator[tuple[int, int]]:
    """(dp_replicate, dp_shard) with product `rest`: all sharded, or sharded inside a node and replicated across."""
    rest = first.dp_shard
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
    in_node = max(1, machine.domain // (first.tp * first.cp))
    if 1 < in_node < rest and rest % in_node == 0:
        yield rest // in_node, in_node


def _expert_degrees(wanted: Given, graph: Graph, *, ranks: int) -> Iterable[int]:
    if wanted.ep is not None:
        return (wanted.ep,)
    experts = graph.sizes.get("E")
    if experts is None:
        return (1,)
    return divisors(math.gcd(experts, ranks), at_most=MAX_EXPERT_RANKS)


def _zeros(wanted: Given, *, dp_replicate: int, shards: int) -> tuple[Zero, ...]:
    """Sharding inside a node with replicas across is tried for ZeRO-3, whose gathers it keeps off the network. One rank has nothing to shard."""
    if shards == 1:
        return (0,)
    if wanted.zero is not None:
        return (wanted.zero,)
    return (3,) if dp_replicate > 1 and wanted.dp_replicate is None else (2, 1, 3)


def _cp_kinds(wanted: Given, cp: int) -> tuple[CpKind | None, ...]:
    if cp == 1:
        return (None,)
    return ("ring", "ulysses") if wanted.cp_kind is None else (wanted.cp_kind,)


def _batches(wanted: Given, ranks: int, machine: Machine, *, global_batch: int | None) -> Iterator[tuple[int, int]]:
    """(micro_batch, grad_accumulation) for what one of so many data-parallel ranks has to do in a step."""
    if global_batch is None:
        yield wanted.micro_batch or 1, wanted.grad_accumulation or 1
        return
    a_rank = max(1, global_batch // ranks)
    if wanted.micro_batch is not None:
        yield wanted.micro_batch, wanted.grad_accumulation or max(1, a_rank // wanted.micro_batch)
        return
    if wanted.grad_accumulation is not None:
        yield max(1, a_rank // wanted.grad_accumulation), wanted.grad_accumulation
        return
    for micro_batch in divisors(a_rank, at_most=MAX_MICRO_BATCH_CPU if machine.kind == "cpu" else MAX_MICRO_BATCH):
        yield micro_batch, a_rank // micro_batch


def _schedules(wanted: Given, first: Layout, graph: Graph) -> Iterator[tuple[Schedule, int]]:
    """(schedule, stages a rank)"""
    pp, micro_batches, layers = first.pp, first.grad_accumulation, graph.num_layers
    if pp == 1:
        yield wanted.schedule or "1f1b", wanted.virtual_stages or 1
        return
    most = layers // pp
    several = (*range(2, min(MAX_VIRTUAL_STAGES, most) + 1), *((most,) if most > MAX_VIRTUAL_STAGES else ()))
    if wanted.schedule is not None:
        usual = {"interleaved_1f1b": several, "dualpipe": (2,)}.get(wanted.schedule, (1,))
        for virtual in (wanted.virtual_stages,) if wanted.virtual_stages else usual or (2,):
            yield wanted.schedule, virtual
        return
    if wanted.virtual_stages in (None, 1):
        yield "1f1b", 1
        yield "zero_bubble", 1
    if wanted.virtual_stages in (None, 2) and 2 * pp <= min(layers, micro_batches):
        yield "dualpipe", 2
    if micro_batches % pp == 0:
        for virtual in several if wanted.virtual_stages is None else (wanted.virtual_stages,):
            if virtual > 1:
                yield "interleaved_1f1b", virtual
