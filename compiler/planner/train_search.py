"""Choose a training layout: branch and bound outside, an exact assignment of layers inside.

    minimise    step time                                          Workload.step
    subject to  peak memory <= memory of a device                  Workload.ledger
                every degree divides what it splits                rules.violations
                what the user wrote                                enumerate.families

Families (degrees and micro-batch) wait in a queue with a bound that none of their layouts beats (bounds.py); the most
promising is opened into layouts with bounds of their own (assign.py), and the most promising of these is filled with stages
and recompute. When no bound is left below the fastest found, it is the fastest there is.

Layouts within a half per cent of the fastest count as equal: of those the simplest is taken, then the one that needs
least memory. A layout leaves some of a device free, since allocators fragment and no ledger is that exact; if none does, the
leanest is taken. A layout that is fixed by hand is priced as it stands, and the search only says what it would have chosen.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..cost.step import StepTime, step_time
from .assign import fill
from .bounds import least_step_s
from .enumerate import Branch, Family
from .offload import too_much_for_host
from .ranks import Ranks
from .rules import Violation, violations
from .stages import EQUAL, TooSlow

if TYPE_CHECKING:
    from ..cost.memory import Ledger
    from ..cost.workload import Workload
    from .layout import Layout

Refusal = Callable[["Layout"], str | None]
"""Why there would be no program of a layout; None: there would be one."""
NO_PROGRAM = "not lowered yet"
SAME_TIME = 1.005
BRIM = 0.96
"""Share of a device's memory beyond which a layout is chosen only if there is no other."""
NUM_SHAPES = 5
"""Shapes of layouts that are filled at least: the chosen one, which is exact, and some to compare it with."""


@dataclass(frozen=True)
class Priced:
    """A layout that fits."""

    layout: Layout
    ledger: Ledger
    time: StepTime
    is_tight: bool = False
    """Whether it fills the device to the brim."""


@dataclass(frozen=True)
class Misfit:
    """A layout that needs more memory than a device has."""

    layout: Layout
    ledger: Ledger


@dataclass
class Search:
    """What was tried: layouts that fit, those that do not, and how many each rule or bound removed."""

    fitting: list[Priced] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    num_beyond: int = 0
    """Layouts that were not tried, since leaner ones with the same degrees do not fit."""
    broken: Counter[str] = field(default_factory=Counter)
    violations: dict[str, tuple[Layout, Violation]] = field(default_factory=dict)
    """The first layout that broke each rule."""
    num_slower: int = 0
    """Layouts that were not priced, since nothing that is still open of them makes them fast enough."""
    bound_s: float = 0.0
    """No layout takes less."""

    @property
    def nearest_miss(self) -> Misfit | None:
        return min(self.misfits, key=lambda miss: miss.ledger.peak, default=None)

    @property
    def num_misfits(self) -> int:
        return len(self.misfits) + self.num_beyond

    @property
    def gap(self) -> float:
        """Share by which a better layout than the fastest found may exist; 0 where the search was exact."""
        fastest = min((each.time.total for each in self.fitting), default=0.0)
        return max(0.0, 1 - self.bound_s / fastest) if fastest else 0.0

    @property
    def num_layouts(self) -> int:
        """All that were weighed."""
        return len(self.fitting) + self.num_misfits + sum(self.broken.values()) + self.num_slower


def search(
    candidates: Iterable[Family],
    work: Workload,
    *,
    global_batch: int | None,
    refusal: Refusal = lambda _: None,
    num_shapes: int = NUM_SHAPES,
) -> Search:
    """The best layouts of all families; the chosen one first in `fitting`, the rest by time.

    Args:
        refusal: layouts with one are left out.
        num_shapes: how many that differ in more than details are found, to tell what was given up; 1 asks for the best alone.
    """
    return _Search(work, global_batch=global_batch, refusal=refusal).run(candidates, num_shapes=num_shapes)


def price(layouts: Sequence[Layout], work: Workload, *, global_batch: int | None) -> Search:
    """Layouts as they stand, nothing of them open."""
    found = Search()
    for layout in layouts:
        _price(layout, work, found, global_batch=global_batch)
    found.fitting.sort(key=lambda each: (each.is_tight, each.time.total))
    found.bound_s = min((each.time.total for each in found.fitting), default=0.0)
    return found


def _price(layout: Layout, work: Workload, found: Search, *, global_batch: int | None) -> None:
    violation = _violation(layout, work, global_batch=global_batch)
    if violation is not None:
        found.broken[violation.key] += 1
        found.violations.setdefault(violation.key, (layout, violation))
        return
    ledger, memory = work.ledger(layout), work.machine.memory_bytes
    if ledger.peak > memory:
        found.misfits.append(Misfit(layout, ledger))
    else:
        found.fitting.append(Priced(layout, ledger, step_time(work, layout), ledger.peak > BRIM * memory))


def _violation(layout: Layout, work: Workload, *, global_batch: int | None) -> Violation | None:
    """The first rule that a layout breaks: of what it divides, then of the host's memory."""
    rules = violations(layout, work.graph, seq_len=work.seq_len, global_batch=global_batch)
    return next(rules, None) or too_much_for_host(layout, work)


class _Search:
    """The queue of families and layouts, and what came of them."""

    def __init__(self, work: Workload, *, global_batch: int | None, refusal: Refusal) -> None:
        self.work, self.global_batch, self.refusal = work, global_batch, refusal
        self.found = Search()
        self.memory_bytes = work.machine.memory_bytes
        self.room_bytes = BRIM * work.machine.memory_bytes
        self.queue: list[tuple[float, int, Family | Branch | Ranks]] = []
        self.fastest_s = math.inf
        self.shapes: set[tuple[object, ...]] = set()
        self.hopeless: dict[tuple[object, ...], int] = {}
        self.unfilled: list[Ranks] = []
        self.tight: list[tuple[Layout, Ledger]] = []
        self.gaps: list[float] = []
        self.of_zero_2: dict[tuple[object, int], float] = {}
        """Seconds of kinds and micro-batches with ZeRO-2."""
        self.num_queued = 0

    def run(self, families: Iterable[Family], *, num_shapes: int) -> Search:
        for family in families:
            self._consider(family)
        while self.queue and self.queue[0][0] <= self.fastest_s * SAME_TIME:
            self._next()
        while self.queue and len(self.shapes) < num_shapes:
            self._next(of_new_shape=True)
        found = self.found
        found.num_beyond += len(self.tight)
        found.num_slower += sum(1 if isinstance(entry, Ranks) else entry.num_members for _, _, entry in self.queue)
        if not found.fitting:
            self._fill_to_the_brim()
            found.num_beyond -= len(self.tight)
        found.fitting.sort(key=lambda each: (each.is_tight, each.time.total, each.ledger.peak, complexity(each.layout)))
        fastest = min((each.time.total for each in found.fitting), default=0.0)
        found.bound_s = min([fastest, *self.gaps])
        best = _pick(found.fitting)
        if best is not None:
            found.fitting.remove(best)
            found.fitting.insert(0, best)
        return found

    def _next(self, *, of_new_shape: bool = False) -> None:
        _, _, entry = heapq.heappop(self.queue)
        if isinstance(entry, Family):
            self._branch(entry)
        elif isinstance(entry, Branch):
            self._open(entry)
        elif of_new_shape and _shape(entry.layout) in self.shapes:
            self.found.num_slower += 1
        else:
            self._fill(entry, of_new_shape=of_new_shape)

    def _push(self, bound: float, entry: Family | Branch | Ranks) -> None:
        self.num_queued += 1  # of equal bounds, first come, first served
        heapq.heappush(self.queue, (bound, self.num_queued, entry))

    def _breaks_a_rule(self, layout: Layout, *, times: int) -> bool:
        violation = _violation(layout, self.work, global_batch=self.global_batch)
        if violation is None:
            return False
        self.found.broken[violation.key] += times
        self.found.violations.setdefault(violation.key, (layout, violation))
        return True

    def _is_refused(self, layout: Layout) -> bool:
        """Whether the layout would have no program."""
        message = self.refusal(layout)
        if message is None:
            return False
        self.found.broken[NO_PROGRAM] += 1
        self.found.violations.setdefault(NO_PROGRAM, (layout, Violation(NO_PROGRAM, "rest", message, lambda _: False)))
        return True

    def _consider(self, family: Family) -> None:
        first, members = family.first, family.num_members
        if self._breaks_a_rule(first, times=max(1, members)) or members == 0:
            return
        if len(family.schedules) == 1:  # given, and perhaps one that the rest does not allow
            schedule, virtual = family.schedules[0]
            staged = replace(first, schedule=schedule, virtual_stages=virtual, stages=family.wanted.stages)
            if self._breaks_a_rule(staged, times=members):
                return
        mesh = (first.tp, first.sequence_parallel, first.cp, first.cp_kind, first.pp, first.ep)
        if first.micro_batch > self.hopeless.get(mesh, first.micro_batch):
            self.found.num_beyond += members
            return
        bound = least_step_s(self.work, family, memory_bytes=self.room_bytes)
        if math.isfinite(bound):
            self._push(bound, family)
            return
        self._too_large(next(iter(family.branches())).leanest)
        self.found.num_beyond += members - 1
        if self.work.is_monotone:
            self.hopeless[mesh] = first.micro_batch

    def _branch(self, family: Family) -> None:
        for branch in family.branches():
            bound = least_step_s(self.work, family, memory_bytes=self.room_bytes, branch=branch)
            if math.isfinite(bound):
                self._push(bound, branch)
            else:
                self._too_large(branch.leanest)
                self.found.num_beyond += branch.num_members - 1

    def _open(self, branch: Branch) -> None:
        for outer in branch.members():
            if self._breaks_a_rule(outer.layout, times=1) or self._is_refused(outer.layout):
                continue
            ranks = Ranks(self.work, outer, memory_bytes=self.room_bytes)
            if ranks.room.suffices:
                self._push(ranks.least_s, ranks)  # of equal bounds ZeRO-2 comes before 1
            else:
                self.found.num_beyond += 1

    def _fill(self, ranks: Ranks, *, of_new_shape: bool) -> None:
        kind, micro_batch, zero = _kind(ranks.layout), ranks.layout.micro_batch, ranks.layout.zero
        if micro_batch > self.hopeless.get((kind, zero), micro_batch):
            self.found.num_beyond += 1
            return
        leaner = self.of_zero_2.get((kind, micro_batch)) if zero == 1 else None
        if leaner is not None and leaner > ranks.least_s and leaner > self.fastest_s * SAME_TIME:
            self.found.num_slower += 1  # ZeRO-2 takes as long and needs less, and is too slow already
            return
        ranks.cutoff_s = math.inf if of_new_shape else self.fastest_s * SAME_TIME
        try:
            filled = fill(ranks)
        except TooSlow:
            self.found.num_slower += 1
            return
        if filled is None:
            if self.work.is_monotone:
                self.hopeless[kind, zero] = micro_batch
            self.unfilled.append(ranks)
            self._too_large(ranks.leanest)
            return
        if self._is_refused(filled.layout):  # for what it computes again
            return
        self.gaps.append(filled.bound_s)
        ledger = self.work.ledger(filled.layout)
        if ledger.peak > self.room_bytes * (1 + EQUAL):
            # interleaved stages that do not keep alike: budgets count their mean
            self._too_large(filled.layout)
            return
        time = step_time(self.work, filled.layout)
        self.found.fitting.append(Priced(filled.layout, ledger, time))
        self.fastest_s = min(self.fastest_s, time.total)
        self.shapes.add(_shape(filled.layout))
        if zero == 2:
            self.of_zero_2[kind, micro_batch] = time.total

    def _too_large(self, layout: Layout) -> None:
        """One that leaves no room, at its leanest; it may still fit to the brim."""
        ledger = self.work.ledger(layout)
        if ledger.peak > self.memory_bytes:
            self.found.misfits.append(Misfit(layout, ledger))
        else:
            self.tight.append((layout, ledger))

    def _fill_to_the_brim(self) -> None:
        """Nothing leaves a device some room: what fits all the same, if need be with stages that are not even."""
        for layout, ledger in self.tight:
            self.found.fitting.append(Priced(layout, ledger, step_time(self.work, layout), is_tight=True))
        for ranks in () if self.tight else self.unfilled:
            filled = fill(ranks.leaner(memory_bytes=self.memory_bytes))
            if filled is not None and not self._is_refused(filled.layout):
                time, ledger = step_time(self.work, filled.layout), self.work.ledger(filled.layout)
                self.found.fitting.append(Priced(filled.layout, ledger, time, is_tight=True))


def _kind(layout: Layout) -> tuple[object, ...]:
    """What layouts have in common that differ in micro-batch and ZeRO alone."""
    mesh = (layout.dp_replicate, layout.dp_shard, layout.tp, layout.cp, layout.pp, layout.ep, layout.cp_kind)
    return (*mesh, layout.sequence_parallel, layout.schedule, layout.virtual_stages, layout.order)


def _pick(fitting: list[Priced]) -> Priced | None:
    """Of those as fast as the fastest, the simplest; of those that leave no room, the leanest."""
    roomy = [each for each in fitting if not each.is_tight]
    if not roomy:
        return min(fitting, key=lambda each: (each.ledger.peak, each.time.total), default=None)
    fastest = min(each.time.total for each in roomy)
    equal = [each for each in roomy if each.time.total <= fastest * SAME_TIME]
    return min(equal, key=lambda each: (complexity(each.layout), each.ledger.peak, each.time.total))


def complexity(layout: Layout) -> int:
    """How many mechanisms a program for this layout has."""
    used = (
        layout.tp > 1,
        layout.cp > 1,
        layout.pp > 1,
        layout.pp > 1,
        layout.ep > 1,
        layout.dp_replicate > 1,
        layout.zero > 1,
        layout.virtual_stages > 1,
        layout.schedule in ("zero_bubble", "dualpipe"),
        layout.order is not None,
        layout.offload is not None,
        layout.recompute != "none",
        layout.recompute == "mixed",
    )
    return sum(used)


def runners_up(fitting: list[Priced], *, at_most: int) -> list[Priced]:
    """The next fastest, of each mesh and choice of sharding and recompute one: variants in the micro-batch say little."""
    seen = {_shape(fitting[0].layout)} if fitting else set()
    chosen: list[Priced] = []
    for priced in sorted(fitting[1:], key=lambda each: (each.is_tight, each.time.total)):
        if len(chosen) == at_most:
            break
        if _shape(priced.layout) not in seen:
            seen.add(_shape(priced.layout))
            chosen.append(priced)
    return chosen


def nearest_misses(misfits: list[Misfit], *, at_most: int) -> list[Misfit]:
    """Those that lack least memory, one of each shape."""
    seen: set[tuple[object, ...]] = set()
    chosen: list[Misfit] = []
    for miss in sorted(misfits, key=lambda miss: miss.ledger.peak):
        if len(chosen) == at_most:
            break
        if _shape(miss.layout) not in seen:
            seen.add(_shape(miss.layout))
            chosen.append(miss)
    return chosen


def _shape(layout: Layout) -> tuple[object, ...]:
    """What makes layouts worth telling apart: ZeRO-1 and 2 differ in memory alone."""
    mesh = (layout.tp, layout.cp, layout.pp, layout.ep, layout.dp_replicate, layout.dp_shard)
    return (*mesh, layout.zero == 3, layout.offload)
