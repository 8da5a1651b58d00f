"""What no layout can beat: admissible bounds, so that the search may leave out whole families.

A family has its degrees and micro-batch; free are the schedule, how states are sharded, stages and recompute. So the schedule
waits least, every rank holds an even share, gradients travel in no time (`least_step_s`), and no more is recomputed than ranks
have no room for (`Room`).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..cost.pipeline import Schedule, bubble_s, in_flight, rank_of_stage
from ..cost.rank_memory import RankMemory
from ..cost.step import RankTime, layer_time, part_time
from ..cost.workload import Rank

if TYPE_CHECKING:
    from ..cost.workload import Workload
    from .enumerate import Branch, Family
    from .layout import LayerRecompute, Layout


def least_step_s(work: Workload, family: Family, *, memory_bytes: float, branch: Branch | None = None) -> float:
    """No layout of the family (or of one branch of it) takes less; infinite where none fits into so much memory."""
    leanest = branch or next(iter(family.branches()))
    one: tuple[tuple[Schedule, int], ...] = ((branch.schedule, branch.virtual_stages),) if branch is not None else ()
    schedules = one or family.schedules
    recomputes = (branch or family).recomputes
    room = Room.of(work, leanest.leanest, recomputes, memory_bytes=memory_bytes)
    if not room.suffices:
        return math.inf
    layout, m = family.first, family.first.grad_accumulation
    counts = Counter(work.graph.order)
    times = [
        (layer_time(work, layout, block, recompute=recomputes[0]), count / layout.pp) for block, count in counts.items()
    ]
    times += [(part_time(work, layout, part), 1 / layout.pp) for part in ("before", "after")]
    mean = RankTime.sum(times)
    waits = min(
        bubble_s(
            schedule,
            ranks=layout.pp,
            micro_batches=m,
            virtual=virtual,
            forward_s=mean.forward,
            backward_s=mean.backward + mean.again,
        )
        for schedule, virtual in schedules
    )
    again = 0.0
    if not room.is_ample:
        bulk = [layer_time(work, layout, work.graph.order[-1], recompute=how).whole for how in recomputes]
        again = room.least_extra([each - bulk[0] for each in bulk]) / layout.pp
    software = work.machine.constants.software[work.software.kind]
    least = software.step_s + m * (software.micro_batch_s + mean.whole + again) + waits
    return least * (1 + work.machine.constants.scale_per_doubling * max(0.0, math.log2(layout.devices / 8)))


RankKind = tuple[tuple[str, ...], float]
"""What tells ranks apart that hold the same layers: other parts, and micro-batches in flight."""


def kinds_of_ranks(layout: Layout) -> list[RankKind]:
    """Of each pipeline rank."""
    return _kinds_of_ranks(layout.schedule, layout.pp, layout.virtual_stages, layout.grad_accumulation)


@lru_cache(maxsize=4096)
def _kinds_of_ranks(schedule: Schedule, pp: int, virtual: int, micro_batches: int) -> list[RankKind]:
    is_v = schedule == "dualpipe"
    last = rank_of_stage(pp * virtual - 1, ranks=pp, is_v=is_v)
    found: list[RankKind] = []
    for rank in range(pp):
        parts = (*(["before"] if rank == 0 else []), *(["after"] if rank == last else []))
        flight = in_flight(schedule, rank=rank, ranks=pp, micro_batches=micro_batches, virtual=virtual)
        found.append((parts, flight))
    return found


class _Plane(NamedTuple):
    """Bytes of a rank: `fixed + layers · states + flight · kept · held`, nowhere more than its ledger."""

    fixed: float
    states: float
    held: float


SMALL_BUCKETS = 160e6
"""Bytes by which gradient buckets of the smallest models fall short of what they are for all others."""


def _plane(work: Workload, layout: Layout, parts: tuple[str, ...]) -> _Plane:
    """Touches the ledger of a rank with many layers of the last class and a device full of activations: the ledger is convex."""
    sharing = (layout.zero, layout.shards, layout.data_parallel, layout.grad_accumulation > 1, layout.offload)
    key = ("plane", parts, layout.degrees, *sharing)
    if key not in work.memo:
        bulk, layers, kept = work.graph.order[-1], len(work.graph.order), work.machine.memory_bytes
        # one stage and one sequence, so one micro-batch is in flight; larger ones need no less
        probe = replace(layout, pp=1, schedule="1f1b", virtual_stages=1, stages=None, micro_batch=1)

        few, more = (
            RankMemory(work, Rank(first=0, layers=((bulk, count),), parts=parts, times=1), probe)
            for count in (layers, layers + 1)
        )
        here = few.ledger(kept=kept, one_layer=0.0).peak
        states = more.ledger(kept=kept, one_layer=0.0).peak - here
        held = (few.ledger(kept=2 * kept, one_layer=0.0).peak - here) / kept
        work.memo[key] = _Plane(here - layers * states - kept * held - SMALL_BUCKETS, states, held)
    return work.memo[key]


@dataclass(frozen=True)
class Room:
    """What ranks have left for layers of the last class, the only one that is counted, without what comes and goes."""

    ranks: tuple[tuple[float, float], ...]
    """(bytes, micro-batches in flight)"""
    states: float
    """Bytes of one layer."""
    kept: tuple[float, ...]
    """Bytes that one layer keeps of a micro-batch, by recompute, falling."""
    num_layers: int

    @classmethod
    def of(cls, work: Workload, layout: Layout, recomputes: Sequence[LayerRecompute], *, memory_bytes: float) -> Room:
        bulk, kinds = work.graph.order[-1], kinds_of_ranks(layout)
        planes = {parts: _plane(work, layout, parts) for parts in dict.fromkeys(parts for parts, _ in kinds)}
        saved, middle = work.kept(bulk, layout), planes[kinds[0][0]]
        return cls(
            ranks=tuple((memory_bytes - planes[parts].fixed, flight) for parts, flight in kinds),
            states=middle.states,
            kept=tuple(saved.of(how, work.software.selective) * layout.micro_batch * middle.held for how in recomputes),
            num_layers=Counter(work.graph.order)[bulk],
        )

    @property
    def suffices(self) -> bool:
        """False where there is no room for all layers, whatever is recomputed."""
        if any(left < 0 for left, _ in self.ranks):
            return False
        return sum(int(left / (self.states + flight * self.kept[-1])) for left, flight in self.ranks) >= self.num_layers

    @property
    def is_ample(self) -> bool:
        """Whether nothing need be recomputed, as far as this bound can tell."""
        return sum(left / (self.states + flight * self.kept[0]) for left, flight in self.ranks) >= self.num_layers

    @property
    def least_busiest(self) -> float:
        """Layers of the rank that holds most, at least: full ranks leave more to the others."""
        rest, ranks = self.num_layers, len(self.ranks)
        for most in sorted(int(left / (self.states + flight * self.kept[-1])) for left, flight in self.ranks):
            if most * ranks >= rest:
                break
            rest, ranks = rest - most, ranks - 1
        return math.ceil(rest / ranks) if ranks else math.inf

    def least_extra(self, extra: Sequence[float]) -> float:
        """What recomputing the layers that have no room costs at least; `extra` is a layer's, by recompute.

        The linear relaxation: each rank's cost is convex and piecewise linear in the layers that it holds, so the
        cheapest pieces of all ranks are filled first.
        """
        edge = _lower_edge(self.kept, extra)
        pieces: list[tuple[float, float]] = []
        for left, flight in self.ranks:
            sizes = [self.states + flight * self.kept[each] for each in edge]
            before = left / sizes[0]
            pieces.append((0.0, before))
            for place, (one, other) in enumerate(itertools.pairwise(edge)):
                here = left / sizes[place + 1]
                rise = (extra[other] - extra[one]) * sizes[place] / (sizes[place] - sizes[place + 1])
                pieces.append((extra[one] + rise, here - before))
                before = here
        rest, cost = float(self.num_layers), 0.0
        for slope, layers in sorted(pieces):
            taken = min(rest, layers)
            rest, cost = rest - taken, cost + slope * taken
            if rest <= 0:
                return cost
        return cost


def _lower_edge(sizes: Sequence[float], costs: Sequence[float]) -> list[int]:
    """The choices that a mixture of others does not beat: from the first (largest, free) on, growing cost a byte saved."""
    edge = [0]
    for each in range(1, len(sizes)):
        if sizes[each] >= sizes[edge[-1]]:
            continue
        while len(edge) > 1 and _rise(sizes, costs, edge[-1], each) <= _rise(sizes, costs, edge[-2], edge[-1]):
            edge.pop()
        edge.append(each)
    return edge


def _rise(sizes: Sequence[float], costs: Sequence[float], one: int, other: int) -> float:
    return (costs[other] - costs[one]) / (sizes[one] - sizes[other])
