"""What each pipeline rank may hold under a layout whose degrees are decided, and what no completion of it can beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..cost.communication import BUCKET
from ..cost.rank_memory import RankMemory
from ..cost.step import RANK_TERMS, RankTime, Tail, assemble, layer_time, part_time, tail_of
from ..cost.workload import Rank
from .bounds import RankKind, Room, kinds_of_ranks
from .layout import LayerRecompute, Layout
from .mixtures import Counts, Figures, Mixed, mixtures
from .stages import EQUAL, Option, Options

if TYPE_CHECKING:
    from ..cost.workload import Workload

Value = TypeVar("Value")


@dataclass(frozen=True)
class Outer:
    """A layout whose degrees are decided, with what is still open of its layers."""

    layout: Layout
    recomputes: tuple[LayerRecompute, ...]
    may_mix: bool = False
    """Whether layers may differ in what they compute again."""
    are_stages_open: bool = False


class Coefficients(NamedTuple):
    """A step's seconds are `fixed + Σ mean[k] · (mean rank's k) + longest · (busiest rank) + tail`."""

    fixed: float
    mean: tuple[float, ...]
    """By RANK_TERMS."""
    longest: float
    exposed: float
    update: float

    def cost(self, time: RankTime) -> float:
        return sum(weight * getattr(time, name) for weight, name in zip(self.mean, RANK_TERMS, strict=True))

    def tail(self, tail: Tail) -> float:
        return self.exposed * tail.exposed_s + self.update * tail.optimizer_s


_NO_TAIL = Tail(0.0, 0.0, 0.0)
_UNITS = [RankTime(**{name: 1.0}) for name in RANK_TERMS]
_NOTHING = RankTime()


def coefficients(work: Workload, layout: Layout) -> Coefficients:
    """Read off the step's formula, which is linear; layouts that differ in how states are sharded share them."""
    pipeline = (layout.schedule, layout.pp, layout.virtual_stages, layout.grad_accumulation, layout.order)
    key = (
        "coefficients",
        *pipeline,
        layout.micro_batch,
        layout.tp,
        layout.cp,
        layout.sequence_parallel,
        layout.devices,
    )
    if key not in work.memo:
        work.memo[key] = _coefficients(work, layout)
    return work.memo[key]


def _coefficients(work: Workload, layout: Layout) -> Coefficients:
    def total(mean: RankTime = _NOTHING, longest_s: float = 0.0, tail: Tail = _NO_TAIL) -> float:
        return assemble(work, layout, mean=mean, longest_s=longest_s, tail=tail).total

    fixed = total()
    return Coefficients(
        fixed=fixed,
        mean=tuple(total(mean=unit) - fixed for unit in _UNITS),
        longest=total(longest_s=1.0) - fixed,
        exposed=total(tail=Tail(0.0, 1.0, 0.0)) - fixed,
        update=total(tail=Tail(0.0, 0.0, 1.0)) - fixed,
    )


class _Lazy(dict[tuple[str, LayerRecompute], Value]):
    """Worked out when first asked for."""

    def __init__(self, make: Callable[[str, LayerRecompute], Value]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: tuple[str, LayerRecompute]) -> Value:
        self[key] = value = self._make(*key)
        return value


class Ranks:
    """What each pipeline rank may hold under a layout."""

    def __init__(self, work: Workload, outer: Outer, *, memory_bytes: float) -> None:
        self.work, self.outer, self.layout, self.memory_bytes = work, outer, outer.layout, memory_bytes
        self.order = work.graph.order
        self.num_layers = len(self.order)
        self.counts = tuple(Counter(self.order).items())
        self.counts_of = dict(self.counts)
        self.blocks = tuple(self.counts_of)
        self.weights = coefficients(work, self.layout)
        self._options: dict[tuple[Counts, tuple[str, ...], float], Options] = {}
        self.cutoff_s = math.inf
        """Seconds of a step beyond which a completion is of no use."""

    def only(self, how: LayerRecompute) -> Ranks:
        """With one recompute for all layers."""
        return Ranks(self.work, replace(self.outer, recomputes=(how,)), memory_bytes=self.memory_bytes)

    def leaner(self, *, memory_bytes: float) -> Ranks:
        """With everything recomputed that may be, in so much memory."""
        return Ranks(self.work, replace(self.outer, recomputes=self.outer.recomputes[-1:]), memory_bytes=memory_bytes)

    # What layers cost, wherever they are.

    @cached_property
    def times(self) -> dict[tuple[str, LayerRecompute], RankTime]:
        return _Lazy(lambda block, how: layer_time(self.work, self.layout, block, recompute=how))

    @cached_property
    def figures(self) -> dict[tuple[str, LayerRecompute], Figures]:
        """Of one layer."""
        return _Lazy(self._figures_of)

    def _figures_of(self, block: str, how: LayerRecompute) -> Figures:
        saved, time = self.work.kept(block, self.layout), self.times[block, how]
        parts = self.work.software.selective
        working = saved.backward(how, parts, is_batched=self.layout.micro_batch > 1)
        return Figures(saved.of(how, parts), working.activations, self._cost(time), time.whole)

    @cached_property
    def part_times(self) -> dict[str, RankTime]:
        return {part: part_time(self.work, self.layout, part) for part in ("before", "after")}

    def _cost(self, time: RankTime) -> float:
        return self.weights.cost(time) / self.layout.pp

    # What no completion can beat.

    @cached_property
    def least_cost(self) -> float:
        """Of all layers and parts, each at its cheapest, and of what must be recomputed."""
        layers = sum(count * self.figures[block, self.outer.recomputes[0]].cost for block, count in self.counts)
        return layers + sum(map(self._cost, self.part_times.values())) + self._least_extra(1.0, 0.0)

    @cached_property
    def mean_span(self) -> float:
        """Of all ranks, nothing recomputed that need not be."""
        first = self.outer.recomputes[0]
        layers = sum(count * self.figures[block, first].span for block, count in self.counts)
        return (layers + sum(time.whole for time in self.part_times.values())) / self.layout.pp

    @cached_property
    def least_s(self) -> float:
        """No completion takes less: parameters are spread evenly, recomputed is what has no room, and the busiest rank is
        the mean one, or what full ones leave.
        """
        share, first = self.weights.longest / self.layout.pp, self.outer.recomputes[0]
        figures = [(self.figures[block, first], count) for block, count in self.counts]
        cost = sum(count * each.cost for each, count in figures) + sum(map(self._cost, self.part_times.values()))
        even = self.weights.longest * self.mean_span + self._least_extra(1.0, share)
        crowded = self.weights.longest * self.room.least_busiest * self.figures[self.order[-1], first].span
        crowded += self._least_extra(1.0, 0.0)
        return self.weights.fixed + cost + max(even, crowded) + self.least_tail

    def _least_extra(self, cost: float, span: float) -> float:
        """Of recomputing what has no room, so much of the cost and of the span counted."""
        if self.room.is_ample:
            return 0.0
        bulk = [self.figures[self.order[-1], how] for how in self.outer.recomputes]
        plain = bulk[0]
        return self.room.least_extra(
            [cost * (each.cost - plain.cost) + span * (each.span - plain.span) for each in bulk]
        )

    @cached_property
    def least_tail(self) -> float:
        """The longest tail is no shorter than the mean one: an even share of the gradients, behind one of the backward pass.

        Several buckets of gradients take time in proportion to their parameters, and fewer take no less a parameter. A
        share that does not fill a bucket could all hide: the rank that holds most has one at least.
        """
        everything = Rank(first=0, layers=self.counts, parts=("before", "after"), times=1)
        dense, experts = (each // self.layout.pp for each in everything.parameters(self.work, self.layout.degrees))
        fills = all(share == 0 or share >= BUCKET for share in (dense, experts))
        backward_s = self.mean_backward_s if fills else math.inf
        return self.weights.tail(tail_of(self.work, self.layout, (dense, experts), backward_s=backward_s))

    @cached_property
    def mean_backward_s(self) -> float:
        """Of all ranks, what gradients may hide behind."""
        first = self.outer.recomputes[0]
        layers = sum(count * self.times[block, first].backward for block, count in self.counts)
        return (layers + sum(time.backward for time in self.part_times.values())) / self.layout.pp

    @cached_property
    def room(self) -> Room:
        return Room.of(self.work, self.layout, self.outer.recomputes, memory_bytes=self.memory_bytes)

    @cached_property
    def leanest(self) -> Layout:
        """Even stages, and everything recomputed that may be: what is shown of a layout that does not fit."""
        return replace(self.layout, recompute=self.outer.recomputes[-1])

    # What a rank may do.

    def options(self, counts: Counts, *, rank: int) -> Options:
        """Ways to run so many layers of each class on a rank, those that fit."""
        key = (counts, *self._kinds[rank])
        found = self._options.get(key)
        if found is None:
            found = self._options[key] = self._find_options(counts, self._kinds[rank][0], rank=rank)
        return found

    @cached_property
    def _kinds(self) -> list[RankKind]:
        return kinds_of_ranks(self.layout)

    def _find_options(self, counts: Counts, parts: tuple[str, ...], *, rank: int) -> Options:
        first = self.outer.recomputes[0]
        holds = Rank(
            first=rank,
            layers=counts,
            parts=parts,
            times=1,
            mixed=tuple((block, first, count) for block, count in counts),
        )
        times = [self.part_times[part] for part in parts]
        cost, span = sum(map(self._cost, times)), sum(time.whole for time in times)
        backward = sum(time.backward for time in times)
        backward += sum(self.times[block, first].backward * count for block, count in counts)
        held = holds.parameters(self.work, self.layout.degrees)
        tail = self.weights.tail(tail_of(self.work, self.layout, held, backward_s=backward))
        on_edge: list[Option] = []
        for each in sorted(self._mixtures(holds)):
            if not on_edge or each.span + span < on_edge[-1].span * (1 - EQUAL):
                on_edge.append(Option(each.cost + cost, each.span + span, tail, each.mixture))
        return tuple(on_edge)

    def _mixtures(self, holds: Rank) -> Iterable[Mixed]:
        """What layers may compute again so that they fit; of each, no more than they must."""
        recomputes, figures, counts = self.outer.recomputes, self.figures, holds.layers
        memory = RankMemory(self.work, holds, self.layout)
        levels = sorted({figures[block, how].rebuilt for block, _ in counts for how in recomputes})
        for rebuilt in levels:  # what is rebuilt while one layer runs backward: the most of any layer
            allowed: dict[str, list[LayerRecompute]] = {
                block: [how for how in recomputes if figures[block, how].rebuilt <= rebuilt] for block, _ in counts
            }
            if not all(allowed.values()):
                continue
            budget = self._budget(memory, allowed, rebuilt=rebuilt)
            if budget is None:
                continue
            found = list(mixtures(figures, counts, allowed, budget=budget))
            yield from found
            if any(all(how == recomputes[0] for _, how, _ in each.mixture) for each in found):
                return  # nothing need be recomputed

    def _budget(
        self, memory: RankMemory, allowed: Mapping[str, Sequence[LayerRecompute]], *, rebuilt: float
    ) -> float | None:
        """Bytes of a sequence that all layers may keep; None where they do not fit at their leanest.

        The ledger is convex in them, so steps along its slope, from above, end at the last that fits.
        """
        holds = memory.rank
        of_parts = sum(self.work.kept(part, self.layout).none for part in holds.parts)

        def excess(kept: float) -> float:
            return memory.ledger(kept=kept + of_parts, one_layer=rebuilt).peak - self.memory_bytes

        most, least = (
            sum(
                count * choose(self.figures[block, how].kept for how in allowed[block]) for block, count in holds.layers
            )
            for choose in (max, min)
        )
        over = excess(most)
        if over <= 0:
            return math.inf
        if excess(least) > 0:
            return None
        kept, step = most, max(1.0, most * 1e-3)
        while over > EQUAL * self.memory_bytes and kept > least:
            slope = (over - excess(kept - step)) / step
            if slope <= 0:
                return least
            kept = max(least, kept - over / slope)
            over = excess(kept)
        return kept
