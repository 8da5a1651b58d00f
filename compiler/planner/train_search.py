"""Choose a training layout.

    minimise    step time                                          Workload.step
    subject to  peak memory <= memory of a device                  Workload.ledger
                every degree divides what it splits                rules.violations
                what the user wrote                                enumerate.layouts

Layouts within a half per cent of the fastest count as equal: of those the simplest is taken, then the one that needs
least memory. Those that fill a device to the brim come last: allocators fragment, and no ledger is that exact. A layout that is fixed by hand is priced as it stands, and the search only says what it would have chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..cost.memory import Ledger
from ..cost.step import StepTime, step_time
from ..cost.workload import Workload
from .layout import Layout
from .rules import Violation, violations

SAME_TIME = 1.005
BRIM = 0.96
"""Share of a device's memory beyond which a layout is chosen only if there is no other."""


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
    """What was tried: layouts that fit, those that do not, and how many each rule removed."""

    fitting: list[Priced] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    num_beyond: int = 0
    """Layouts that were not tried, since smaller micro-batches of the same do not fit."""
    broken: Counter[str] = field(default_factory=Counter)
    violations: dict[str, tuple[Layout, Violation]] = field(default_factory=dict)
    """The first layout that broke each rule."""

    @property
    def nearest_miss(self) -> Misfit | None:
        return min(self.misfits, key=lambda miss: miss.ledger.peak, default=None)

    @property
    def num_misfits(self) -> int:
        return len(self.misfits) + self.num_beyond


def search(candidates: Iterable[tuple[Layout, ...]], work: Workload, *, global_batch: int | None) -> Search:
    """Price every candidate; fastest first in `fitting`.

    Candidates come in groups (enumerate.layouts): once one fits, the rest are no faster.
    Groups of one mesh come with growing micro-batches: once none of a group fits, larger micro-batches do not either.
    """
    found = Search()
    hopeless: set[tuple[object, ...]] = set()
    for group in candidates:
        family = _family(group[0])
        if family in hopeless:
            found.num_beyond += len(group)
            continue
        if not any(_try(layout, work, found, global_batch=global_batch) for layout in group) and work.is_monotone:
            hopeless.add(family)
    found.fitting.sort(key=lambda each: (each.is_tight, each.time.total, each.ledger.peak, complexity(each.layout)))
    best = _pick(found.fitting)
    if best is not None:
        found.fitting.remove(best)
        found.fitting.insert(0, best)
    return found


def _family(layout: Layout) -> tuple[object, ...]:
    """What layouts have in common that differ in micro-batch, recompute and ZeRO-1 or 2."""
    mesh = (layout.dp_replicate, layout.dp_shard, layout.tp, layout.cp, layout.pp, layout.ep)
    return (*mesh, layout.schedule, layout.virtual_stages, layout.zero == 3)


def _try(layout: Layout, work: Workload, found: Search, *, global_batch: int | None) -> bool:
    """Whether nothing more of the group need be tried."""
    violation = next(violations(layout, work.graph, seq_len=work.seq_len, global_batch=global_batch), None)
    if violation is not None:
        found.broken[violation.key] += 1
        found.violations.setdefault(violation.key, (layout, violation))
        return True
    ledger = work.ledger(layout)
    if ledger.peak > work.machine.memory_bytes:
        found.misfits.append(Misfit(layout, ledger))
        return False
    is_tight = ledger.peak > BRIM * work.machine.memory_bytes
    found.fitting.append(Priced(layout, ledger, step_time(work, layout), is_tight))
    return not is_tight


def _pick(fitting: list[Priced]) -> Priced | None:
    """Of those as fast as the fastest, the simplest."""
    if not fitting:
        return None
    first = fitting[0]
    equal = [
        each for each in fitting if each.is_tight == first.is_tight and each.time.total <= first.time.total * SAME_TIME
    ]
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
    )
    return sum(used) + (layout.virtual_stages > 1) + {"none": 0, "selective": 1, "full": 1}[layout.recompute]


def runners_up(fitting: list[Priced], *, at_most: int) -> list[Priced]:
    """The next fastest, of each mesh and choice of sharding and recompute one: variants in the micro-batch say little."""
    seen = {_shape(fitting[0].layout)} if fitting else set()
    chosen: list[Priced] = []
    for priced in sorted(fitting[1:], key=lambda each: each.time.total):
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
    return (*mesh, layout.zero == 3, layout.recompute)
