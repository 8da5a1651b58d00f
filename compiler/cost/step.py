"""The predicted time of one optimizer step under a layout.

    step = compute + recompute + bubble + optimizer + exposed_comm

m micro-batches pass through the busiest pipeline rank. compute is m · (forward + backward) of its layers and the fixed
overheads; bubble is what it waits (pipeline.py) with half of the imbalance between ranks; exposed_comm is what tp, dp, pp,
cp and ep communicate and compute does not hide (communication.py), and 1.3 % of the step a doubling beyond 8 devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .communication import gradient_s, pass_on_s, traffic_of
from .compute import BlockTime, optimizer_s
from .constants import OVERLAP, SCALE_PER_DOUBLING
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
    by_class: Mapping[str, float]
    """Rows of a report; they sum to the step."""

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
    bubble += m * OVERLAP.imbalance * (busiest.whole - mean)
    overhead = constants.step_overhead_s + m * (constants.micro_batch_overhead_s + share * busiest.overhead)
    compute = m * share * (busiest.forward + busiest.backward) + overhead
    recompute = m * share * busiest.again
    optimizer = _optimizer_s(work, layout, kinds[0])
    dp_comm, dp_exposed = _gradients(work, layout, kinds, backward_s=share * busiest.backward)
    send = pass_on_s(layout, hidden_size=work.graph.sizes["D"], tokens=work.seq_len, machine=work.machine)
    exposed = m * share * busiest.exposed + dp_exposed + 2 * (layout.pp - 1) * send
    doublings = max(0.0, math.log2(layout.devices / 8))
    exposed += SCALE_PER_DOUBLING * doublings * (compute + recompute + bubble + optimizer + exposed)

    by_class = _by_class(work, layout, kinds[which], times=m * share)
    by_class |= {"recompute": recompute, "exposed comm": exposed, "bubble": bubble}
    by_class |= {"optimizer": optimizer, "overheads": overhead}
    total = compute + recompute + bubble + optimizer + exposed
    low, high = combine([(total, constants.spread)])
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
        by_class=by_class,
    )


def _rank_time(work: Workload, layout: Layout, rank: Rank) -> RankTime:
    total, degrees = RankTime(), layout.degrees
    for block, count in rank.layers:
        time = work.time(block, degrees, micro_batch=layout.micro_batch)
        traffic = traffic_of(
            work.ops_of[block],
            layout,
            time=time,
            parameters=work.parameters(block, degrees),
            hidden_size=work.graph.sizes["D"],
            tokens=work.seq_len,
            machine=work.machine,
        )
        total.forward += count * time.forward_s
        total.backward += count * time.backward_s
        total.again += count * _again_s(time, layout.recompute)
        total.exposed += count * traffic.exposed_s
        total.tp += count * traffic.tp_s
        total.cp += count * traffic.cp_s
        total.ep += count * traffic.ep_s
        total.fsdp += count * traffic.fsdp_s
        if work.has_experts[block]:
            total.overhead += count * work.machine.constants.moe_layer_overhead_s
    for part in rank.parts:
        time = work.time(part, degrees, micro_batch=layout.micro_batch)
        total.forward += time.forward_s
        total.backward += time.backward_s
    return total


def _again_s(time: BlockTime, recompute: str) -> float:
    """Seconds of forward work that the backward pass repeats."""
    if recompute == "full":
        return time.forward_s
    return time.attention_forward_s if recompute == "selective" else 0.0


def _by_class(work: Workload, layout: Layout, rank: Rank, *, times: float) -> dict[str, float]:
    """Compute of a rank by class of op, `times` micro-batches."""
    rows: dict[str, float] = {}
    for part, count in (*rank.layers, *((part, 1) for part in rank.parts)):
        time = work.time(part, layout.degrees, micro_batch=layout.micro_batch)
        for name, seconds in time.by_class.items():
            rows[name] = rows.get(name, 0.0) + times * count * seconds
    return rows


def _rank_parameters(work: Workload, layout: Layout, rank: Rank) -> float:
    parts = (*rank.layers, *((part, 1) for part in rank.parts))
    return float(sum(count * sum(work.parameters(part, layout.degrees)) for part, count in parts))


def _gradients(work: Workload, layout: Layout, kinds: tuple[Rank, ...], *, backward_s: float) -> tuple[float, float]:
    """(total, exposed) seconds a step of gradients, and of weights under ZeRO-1 and 2; they hide behind the last backward pass."""
    if layout.data_parallel * layout.cp == 1:
        return 0.0, 0.0
    parameters = max(_rank_parameters(work, layout, rank) for rank in kinds)
    total = gradient_s(parameters, layout, machine=work.machine)
    hidden = min(total, OVERLAP.fsdp_window * backward_s)
    return total, total - hidden + OVERLAP.slowdown * hidden


def _optimizer_s(work: Workload, layout: Layout, first: Rank) -> float:
    states = work.states(layout)
    shards = layout.shards if layout.zero >= 1 else 1
    parameters = _rank_parameters(work, layout, first) / shards
    return optimizer_s(parameters, states=states, machine=work.machine)
