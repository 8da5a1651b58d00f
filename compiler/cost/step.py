"""The predicted time of one optimizer step under a layout.

    step = compute + recompute + bubble + optimizer + exposed_comm

m micro-batches pass through the busiest pipeline rank, and with Sophia a tenth of one more. compute is m · (forward + backward)
of its layers and the fixed overheads; bubble is what it waits (pipeline.py) with half of the imbalance between ranks;
exposed_comm is what tp, dp, pp, cp and ep communicate and compute does not hide (communication.py), and 1.3 % of the step a
doubling beyond 8 devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from .communication import gradient_s, pass_on_s, update_exchange_s, updated_s
from .compute import NARROW, optimizer_s
from .constants import spread_of
from .offload import ON_HOST, host_update_s
from .pipeline import bubble_s, sends_of_fill
from .provenance import combine

if TYPE_CHECKING:
    from ..planner.layout import Layout
    from .workload import Rank, Workload


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step; the first five sum to it, `*_comm` are whole times, hidden or not."""

    compute: float
    recompute: float
    bubble: float
    optimizer: float
    exposed_comm: float
    tp_comm: float
    dp_comm: float
    pp_comm: float
    cp_comm: float
    ep_comm: float
    low: float
    high: float

    @property
    def total(self) -> float:
        return self.compute + self.recompute + self.bubble + self.optimizer + self.exposed_comm


@dataclass(frozen=True)
class RankTime:
    """Seconds of one micro-batch through the layers of one pipeline rank, or through one layer."""

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0
    overhead: float = 0.0
    exposed: float = 0.0
    tp: float = 0.0
    cp: float = 0.0
    ep: float = 0.0
    fsdp: float = 0.0

    @property
    def whole(self) -> float:
        return self.forward + self.backward + self.again + self.exposed + self.overhead

    @classmethod
    def sum(cls, terms: Iterable[tuple[RankTime, float]]) -> RankTime:
        """Each term as often as its number says."""
        terms = list(terms)
        return cls(**{name: sum(getattr(time, name) * times for time, times in terms) for name in RANK_TERMS})


RANK_TERMS = tuple(field.name for field in fields(RankTime))


@dataclass(frozen=True)
class Tail:
    """What a pipeline rank does once a step, when its last backward pass is through."""

    gradients_s: float
    """Of gradients, and of weights under ZeRO-1 and 2, hidden or not."""
    exposed_s: float
    optimizer_s: float

    @property
    def seconds(self) -> float:
        return self.exposed_s + self.optimizer_s


def step_time(work: Workload, layout: Layout) -> StepTime:
    """Price a layout."""
    ranks = work.ranks(layout)
    times = [rank_time(work, layout, rank) for rank in ranks]
    mean = RankTime.sum((time, rank.times / layout.pp) for rank, time in zip(ranks, times, strict=True))
    longest_s = max(time.whole for time in times)
    tails = [
        tail_of(work, layout, rank.parameters(work, layout.degrees), backward_s=time.backward)
        for rank, time in zip(ranks, times, strict=True)
    ]
    return assemble(work, layout, mean=mean, longest_s=longest_s, tail=max(tails, key=lambda tail: tail.seconds))


def assemble(work: Workload, layout: Layout, *, mean: RankTime, longest_s: float, tail: Tail) -> StepTime:
    """The step of pipeline ranks that take `mean` a micro-batch, the busiest `longest_s`.

    Linear in what it is given, which the search for stages relies on (planner/stages.py).
    """
    constants, m, more = work.machine.constants, layout.grad_accumulation, work.optimizer.passes
    bubble = bubble_s(
        layout.schedule,
        ranks=layout.pp,
        micro_batches=m,
        virtual=layout.virtual_stages,
        forward_s=mean.forward + mean.exposed / 2 + mean.overhead / 3,
        backward_s=mean.backward + mean.again + mean.exposed / 2 + mean.overhead * 2 / 3,
    )
    bubble += m * constants.imbalance * (longest_s - mean.whole)
    software = constants.software[work.software.kind]
    compute = (m + more) * (mean.forward + mean.backward + mean.overhead + software.micro_batch_s) + software.step_s
    recompute = (m + more) * mean.again
    send = pass_on_s(layout, hidden_size=work.graph.sizes["D"], tokens=work.seq_len, machine=work.machine)
    passes = 2 * sends_of_fill(layout) + (0 if work.software.overlaps else 2 * m)
    exposed = (m + more) * mean.exposed + (1 + more) * tail.exposed_s + passes * send
    doublings = max(0.0, math.log2(layout.devices / 8))
    exposed += constants.scale_per_doubling * doublings * (compute + recompute + bubble + tail.optimizer_s + exposed)

    total = compute + recompute + bubble + tail.optimizer_s + exposed
    spread = spread_of(constants, is_narrow=work.precision in NARROW, has_experts=any(work.has_experts.values()))
    on_host_s = tail.optimizer_s if layout.offload is not None else 0.0
    low, high = combine([(total - on_host_s, spread), (on_host_s, ON_HOST)])
    return StepTime(
        compute=compute,
        recompute=recompute,
        bubble=bubble,
        optimizer=tail.optimizer_s,
        exposed_comm=exposed,
        tp_comm=(m + more) * mean.tp,
        dp_comm=(1 + more) * tail.gradients_s + (m + more) * mean.fsdp,
        pp_comm=2 * m * layout.virtual_stages * send,
        cp_comm=(m + more) * mean.cp,
        ep_comm=(m + more) * mean.ep,
        low=low,
        high=high,
    )


def rank_time(work: Workload, layout: Layout, rank: Rank) -> RankTime:
    """One micro-batch through what a pipeline rank holds."""
    layers = [
        (layer_time(work, layout, block, recompute=recompute), count)
        for block, recompute, count in rank.by_recompute(layout.recompute)
    ]
    return RankTime.sum([*layers, *((part_time(work, layout, part), 1) for part in rank.parts)])


def layer_time(work: Workload, layout: Layout, block: str, *, recompute: str) -> RankTime:
    """One micro-batch through one layer of a block."""
    time = work.time(block, layout.degrees, micro_batch=layout.micro_batch)
    traffic = work.traffic(block, layout, recompute=recompute)
    return RankTime(
        forward=time.forward_s,
        backward=time.backward_s,
        again=time.again_s(work.software.recomputed(recompute)),
        overhead=_launches_s(work, block, recompute=recompute),
        exposed=traffic.exposed_s,
        tp=traffic.tp_s,
        cp=traffic.cp_s,
        ep=traffic.ep_s,
        fsdp=traffic.fsdp_s,
    )


def part_time(work: Workload, layout: Layout, part: str) -> RankTime:
    """One micro-batch through what comes before the layers, or after them."""
    time = work.time(part, layout.degrees, micro_batch=layout.micro_batch)
    return RankTime(forward=time.forward_s, backward=time.backward_s)


def time_by_class(work: Workload, layout: Layout, time: StepTime) -> dict[str, float]:
    """Rows of a report: seconds of a step by class of op, then what is not compute; they sum to the step."""
    ranks = work.ranks(layout)
    times = [rank_time(work, layout, rank) for rank in ranks]
    busiest = ranks[max(range(len(ranks)), key=lambda index: times[index].whole)]
    rows: dict[str, float] = {}
    for part, count in (*busiest.layers, *((part, 1) for part in busiest.parts)):
        for name, seconds in work.time(part, layout.degrees, micro_batch=layout.micro_batch).by_class.items():
            rows[name] = rows.get(name, 0.0) + count * seconds
    software, m = work.machine.constants.software[work.software.kind], layout.grad_accumulation
    a_micro_batch = sum(rank.times * each.overhead for rank, each in zip(ranks, times, strict=True)) / layout.pp
    overheads = software.step_s + m * (software.micro_batch_s + a_micro_batch)
    scale = (time.compute - overheads) / sum(rows.values())
    rows = {name: seconds * scale for name, seconds in rows.items()}
    rows |= {"recompute": time.recompute, "exposed comm": time.exposed_comm, "bubble": time.bubble}
    return rows | {"optimizer": time.optimizer, "overheads": overheads}


def _launches_s(work: Workload, block: str, *, recompute: str) -> float:
    """Gaps between the kernels of a layer, one micro-batch forward and backward; more where tokens are routed."""
    constants, has_experts = work.machine.constants, work.has_experts[block]
    if work.software.captured or work.software.kind == "xla":
        return constants.captured_moe_layer_s if has_experts else 0.0
    again = 4 / 3 if recompute == "full" else 1.0
    return again * constants.software[work.software.kind].layer_s + (constants.moe_layer_s if has_experts else 0.0)


def _products_per_s(work: Workload) -> float:
    """Operations a second of large matrix products outside the model."""
    precision = "fp32" if work.precision == "fp32" else "bf16"
    return work.machine.peak(precision) * work.machine.constants.product_share(precision)


def tail_of(work: Workload, layout: Layout, parameters: tuple[int, int], *, backward_s: float) -> Tail:
    """What is left to do for (dense, of routed experts) parameters on a device: gradients hide behind the last backward pass."""
    dense, experts = parameters
    shards = layout.shards if layout.zero >= 1 else 1
    mine = dense / shards + experts / max(1, shards // layout.ep)
    update_s = (optimizer_s if layout.offload is None else host_update_s)(
        mine, states=work.states(layout), machine=work.machine
    )
    update_s += mine * work.flops_of_optimizer(layout) / _products_per_s(work)
    exchanges = work.exchanges_of_optimizer(layout)
    update_s += update_exchange_s(exchanges, layout, machine=work.machine) / layout.pp
    if layout.data_parallel * layout.cp == 1:
        return Tail(0.0, 0.0, update_s)
    size = 2.0 if work.software.reduces_halves else work.states(layout).gradients
    machine, software = work.machine, work.software
    gradients = updated = 0.0
    for number, ep in ((dense, 1), (experts, layout.ep)):
        gradients += gradient_s(number, layout, machine=machine, gradient_bytes=size, ep=ep)
        updated += updated_s(number, layout, machine=machine, ep=ep, in_turn=software.updates_in_turn)
    beside_compute = gradients if software.updates_in_turn else gradients + updated
    constants, total = machine.constants, gradients + updated
    hidden = min(beside_compute, constants.fsdp_window * backward_s) if software.overlaps else 0.0
    return Tail(total, total - hidden + constants.slowdown * hidden, update_s)
