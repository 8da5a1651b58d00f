"""The predicted time of one optimizer step under a layout.

    step = compute + recompute + bubble + optimizer + exposed_comm

m micro-batches pass through the busiest pipeline rank. compute is m · (forward + backward) of its layers and the fixed
overheads; bubble is what it waits (pipeline.py) with half of the imbalance between ranks; exposed_comm is what tp, dp, pp,
cp and ep communicate and compute does not hide (communication.py), and 1.3 % of the step a doubling beyond 8 devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .communication import gradient_s, pass_on_s
from .compute import NARROW, optimizer_s
from .constants import spread_of
from .pipeline import bubble_s
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


@dataclass
class RankTime:
    """Seconds of one micro-batch through the layers of one pipeline rank."""

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


def step_time(work: Workload, layout: Layout) -> StepTime:
    """Price a layout."""
    kinds = work.ranks(pp=layout.pp, virtual=layout.virtual_stages)
    times = [_rank_time(work, layout, rank) for rank in kinds]
    mean = sum(rank.times * time.whole for rank, time in zip(kinds, times, strict=True)) / layout.pp
    which = max(range(len(times)), key=lambda index: times[index].whole)
    busiest, constants, m = times[which], work.machine.constants, layout.grad_accumulation
    share = mean / busiest.whole if busiest.whole else 1.0

    bubble = bubble_s(
        layout.schedule,
        ranks=layout.pp,
        micro_batches=m,
        virtual=layout.virtual_stages,
        forward_s=share * (busiest.forward + busiest.exposed / 2),
        backward_s=share * (busiest.backward + busiest.again + busiest.exposed / 2),
    )
    bubble += m * constants.imbalance * (busiest.whole - mean)
    compute = m * share * (busiest.forward + busiest.backward) + _overheads(work, layout)
    recompute = m * share * busiest.again
    optimizer = _optimizer_s(work, layout, kinds[0])
    dp_comm, dp_exposed = _gradients(work, layout, kinds, backward_s=share * busiest.backward)
    send = pass_on_s(layout, hidden_size=work.graph.sizes["D"], tokens=work.seq_len, machine=work.machine)
    passes = 2 * (layout.pp - 1) + (0 if work.software.overlaps else 2 * m)
    exposed = m * share * busiest.exposed + dp_exposed + passes * send
    doublings = max(0.0, math.log2(layout.devices / 8))
    exposed += constants.scale_per_doubling * doublings * (compute + recompute + bubble + optimizer + exposed)

    total = compute + recompute + bubble + optimizer + exposed
    spread = spread_of(constants, is_narrow=work.precision in NARROW, has_experts=any(work.has_experts.values()))
    low, high = combine([(total, spread)])
    return StepTime(
        compute=compute,
        recompute=recompute,
        bubble=bubble,
        optimizer=optimizer,
        exposed_comm=exposed,
        tp_comm=m * share * busiest.tp,
        dp_comm=dp_comm + m * share * busiest.fsdp,
        pp_comm=2 * m * layout.virtual_stages * send,
        cp_comm=m * share * busiest.cp,
        ep_comm=m * share * busiest.ep,
        low=low,
        high=high,
    )


def _rank_time(work: Workload, layout: Layout, rank: Rank) -> RankTime:
    total, degrees = RankTime(), layout.degrees
    total.overhead = _expert_layers(work, rank) * _moe_layer_s(work)
    for block, count in rank.layers:
        time = work.time(block, degrees, micro_batch=layout.micro_batch)
        traffic = work.traffic(block, layout)
        total.forward += count * time.forward_s
        total.backward += count * time.backward_s
        total.again += count * time.again_s(work.software.recomputed(layout.recompute))
        total.exposed += count * traffic.exposed_s
        total.tp += count * traffic.tp_s
        total.cp += count * traffic.cp_s
        total.ep += count * traffic.ep_s
        total.fsdp += count * traffic.fsdp_s
    for part in rank.parts:
        time = work.time(part, degrees, micro_batch=layout.micro_batch)
        total.forward += time.forward_s
        total.backward += time.backward_s
    return total


def time_by_class(work: Workload, layout: Layout, time: StepTime) -> dict[str, float]:
    """Rows of a report: seconds of a step by class of op, then what is not compute; they sum to the step."""
    kinds = work.ranks(pp=layout.pp, virtual=layout.virtual_stages)
    busiest = max(kinds, key=lambda rank: _rank_time(work, layout, rank).whole)
    rows: dict[str, float] = {}
    for part, count in (*busiest.layers, *((part, 1) for part in busiest.parts)):
        for name, seconds in work.time(part, layout.degrees, micro_batch=layout.micro_batch).by_class.items():
            rows[name] = rows.get(name, 0.0) + count * seconds
    overheads = _overheads(work, layout)
    scale = (time.compute - overheads) / sum(rows.values())
    rows = {name: seconds * scale for name, seconds in rows.items()}
    rows |= {"recompute": time.recompute, "exposed comm": time.exposed_comm, "bubble": time.bubble}
    return rows | {"optimizer": time.optimizer, "overheads": overheads}


def _overheads(work: Workload, layout: Layout) -> float:
    """Launching and synchronising: a step, a micro-batch, a layer with experts."""
    constants, m = work.machine.constants.software[work.software.kind], layout.grad_accumulation
    layers = sum(
        rank.times * _expert_layers(work, rank) for rank in work.ranks(pp=layout.pp, virtual=layout.virtual_stages)
    )
    return constants.step_s + m * (constants.micro_batch_s + layers / layout.pp * _moe_layer_s(work))


def _moe_layer_s(work: Workload) -> float:
    constants = work.machine.constants
    return constants.captured_moe_layer_s if work.software.captured else constants.moe_layer_s


def _expert_layers(work: Workload, rank: Rank) -> int:
    return sum(count for block, count in rank.layers if work.has_experts[block])


def _rank_parameters(work: Workload, layout: Layout, rank: Rank) -> tuple[int, int]:
    """(dense, of routed experts) that one device of a rank holds."""
    dense = experts = 0
    for part, count in (*rank.layers, *((part, 1) for part in rank.parts)):
        here = work.parameters(part, layout.degrees)
        dense, experts = dense + count * here[0], experts + count * here[1]
    return dense, experts


def _gradients(work: Workload, layout: Layout, kinds: tuple[Rank, ...], *, backward_s: float) -> tuple[float, float]:
    """(total, exposed) seconds a step of gradients, and of weights under ZeRO-1 and 2; they hide behind the last backward pass."""
    if layout.data_parallel * layout.cp == 1:
        return 0.0, 0.0
    dense, experts = max((_rank_parameters(work, layout, rank) for rank in kinds), key=sum)
    size = 2.0 if work.software.reduces_halves else work.states(layout).gradients
    total = gradient_s(dense, layout, machine=work.machine, gradient_bytes=size)
    total += gradient_s(experts, layout, machine=work.machine, gradient_bytes=size, ep=layout.ep)
    if not work.software.overlaps:
        return total, total
    constants = work.machine.constants
    hidden = min(total, constants.fsdp_window * backward_s)
    return total, total - hidden + constants.slowdown * hidden


def _optimizer_s(work: Workload, layout: Layout, first: Rank) -> float:
    states = work.states(layout)
    dense, experts = _rank_parameters(work, layout, first)
    shards = layout.shards if layout.zero >= 1 else 1
    parameters = dense / shards + experts / max(1, shards // layout.ep)
    return optimizer_s(parameters, states=states, machine=work.machine)
