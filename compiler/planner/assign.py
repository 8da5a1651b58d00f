"""Complete a layout: which layers each stage holds, and what each layer computes again.

    minimise    seconds of a step                        cost/step.assemble, linear in ranks' times
    subject to  every rank's peak fits                   Workload.ledgers
                recompute of a layer is one that is allowed

A rank's layers of one class (block) are alike, so only their number by recompute counts. Of these mixtures
those are kept that recompute no more than they must; stages.py cuts the layers.

With several stages a rank (interleaved, DualPipe), ranks hold runs that lie apart: where all layers from some one on are alike
only their number counts, and the cut is exact; where classes alternate stages are about even, and the gap is told.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..cost.pipeline import even_stages, layers_of_ranks, rank_of_stage
from .layout import LayerRecompute, Layout
from .mixtures import Counts, Mixture
from .ranks import Ranks
from .stages import Option, Options, Problem, Solution, solve

MAX_HEAD = 5
"""Layers before the uniform rest for which every place is tried, where ranks hold several stages."""


@dataclass(frozen=True)
class Filled:
    """A complete layout, and how much better another completion could be."""

    layout: Layout
    seconds: float
    bound_s: float
    """No completion takes less."""


def fill(ranks: Ranks) -> Filled | None:
    """The fastest completion that fits; None where none does. TooSlow where none is faster than `ranks.cutoff_s`."""
    outer, layout = ranks.outer, ranks.layout
    if len(outer.recomputes) > 1 and not outer.may_mix:
        alike = (fill(ranks.only(how)) for how in outer.recomputes)
        return next((each for each in alike if each is not None), None)  # what recomputes less is faster
    if not outer.are_stages_open:
        return _keep(ranks, layout.stages or even_stages(ranks.num_layers, stages=layout.pp * layout.virtual_stages))
    return _cut(ranks) if layout.virtual_stages == 1 else _cut_in_rounds(ranks)


def _cut(ranks: Ranks) -> Filled | None:
    """One stage a rank: any cut."""
    runs: dict[tuple[int, int], Counts] = {}

    def options(start: int, stop: int, rank: int) -> Options:
        if (start, stop) not in runs:
            runs[start, stop] = _count(ranks.order[start:stop])
        return ranks.options(runs[start, stop], rank=rank)

    found = solve(_problem(ranks, options, num_layers=ranks.num_layers))
    if found is None:
        return None
    sizes = [stop - start for start, stop in itertools.pairwise((0, *found.ends))]
    return _filled(ranks, tuple(sizes), found)


def _keep(ranks: Ranks, stages: tuple[int, ...]) -> Filled | None:
    """The best recompute for stages as they are."""
    layers = layers_of_ranks(replace(ranks.layout, stages=stages), num_layers=ranks.num_layers)
    runs = [_count(ranks.order[layer] for layer in held) for held in layers]

    def options(start: int, stop: int, rank: int) -> Options:
        return ranks.options(runs[rank], rank=rank) if stop - start == 1 else ()

    found = solve(_problem(ranks, options, num_layers=ranks.layout.pp))
    return None if found is None else _filled(ranks, stages, found)


def _cut_in_rounds(ranks: Ranks) -> Filled | None:
    """Several stages a rank: how many layers of the last class a rank holds, for every place of those before it.

    Classes that alternate are not told apart in this way: their stages are even, or lighter at the ends.
    """
    bulk = ranks.order[-1]
    head = ranks.order[: ranks.order.index(bulk)]
    is_uniform = len(head) <= MAX_HEAD and set(ranks.order[len(head) :]) == {bulk}
    if is_uniform:
        found = [_cut_behind(ranks, head, split) for split in _compositions(len(head))]
    else:
        found = [_keep(ranks, stages) for stages in _nearly_even(ranks)]
    best = min((each for each in found if each is not None), key=lambda each: each.seconds, default=None)
    if best is None:
        return None
    bound = min(each.bound_s for each in found if each is not None)
    is_every_place = is_uniform and len(head) <= ranks.layout.pp
    return replace(best, bound_s=bound if is_every_place else min(best.seconds, ranks.least_s))


def _cut_behind(ranks: Ranks, head: Sequence[str], split: tuple[int, ...]) -> Filled | None:
    """The layers of `head` make up the beginnings of the first stages, so many each; the rest is all alike."""
    bulk, virtual, pp = ranks.order[-1], ranks.layout.virtual_stages, ranks.layout.pp
    if len(split) > pp:
        return None
    ends = (0, *itertools.accumulate(split))
    heads = [_count(head[start:stop]) for start, stop in itertools.pairwise(ends)]
    heads += [()] * (pp - len(heads))
    least = [virtual - 1 if held else virtual for held in heads]
    spare = ranks.num_layers - len(head) - sum(least)
    if spare < 0:
        return None

    def options(start: int, stop: int, rank: int) -> Options:
        number = least[rank] + stop - start
        return ranks.options((*heads[rank], *(((bulk, number),) if number else ())), rank=rank)

    found = solve(_problem(ranks, options, num_layers=spare, least=0))
    if found is None:
        return None
    runs = itertools.pairwise((0, *found.ends))
    numbers = [number + stop - start for number, (start, stop) in zip(least, runs, strict=True)]
    return _filled(ranks, _stages_behind(ranks, split, numbers), found)


def _stages_behind(ranks: Ranks, split: tuple[int, ...], numbers: Sequence[int]) -> tuple[int, ...]:
    """Layers of each stage: `split` at the beginnings of the first ones, and of the rest `numbers` on each rank."""
    layout, virtual = ranks.layout, ranks.layout.virtual_stages
    stages = [0] * (layout.pp * virtual)
    for rank, number in enumerate(numbers):
        first = split[rank] if rank < len(split) else 0
        if rank < len(split) - 1:  # the rest of the head comes next, in the stage of the next rank
            sizes = (first, *even_stages(number, stages=virtual - 1))
        else:
            sizes = even_stages(number + first, stages=virtual)
            if sizes[0] < first:
                sizes = (first, *even_stages(number, stages=virtual - 1))
        is_v = layout.schedule == "dualpipe"
        turns = [stage for stage in range(len(stages)) if rank_of_stage(stage, ranks=layout.pp, is_v=is_v) == rank]
        for stage, size in zip(turns, sizes, strict=True):
            stages[stage] = size
    return tuple(stages)


def _nearly_even(ranks: Ranks) -> Iterable[tuple[int, ...]]:
    """Even stages; the first, the last or both with a layer less."""
    num_stages = ranks.layout.pp * ranks.layout.virtual_stages
    for lighter in ((), (0,), (num_stages - 1,), (0, num_stages - 1)):
        sizes = list(even_stages(ranks.num_layers + len(lighter), stages=num_stages))
        for stage in lighter:
            sizes[stage] -= 1
        if min(sizes) > 0:
            yield tuple(sizes)


def _problem(ranks: Ranks, options: Callable[[int, int, int], Options], *, num_layers: int, least: int = 1) -> Problem:
    return Problem(
        num_layers=num_layers,
        num_stages=ranks.layout.pp,
        options=options,
        weight=ranks.weights.longest,
        least_cost=ranks.least_cost,
        least=least,
        mean_span=ranks.mean_span,
        least_tail=ranks.least_tail,
        cutoff=ranks.cutoff_s - ranks.weights.fixed,
    )


def _count(blocks: Iterable[str]) -> Counts:
    return tuple(Counter(blocks).items())


def _filled(ranks: Ranks, stages: tuple[int, ...], found: Solution) -> Filled:
    """The layout in full: recompute as it falls on layers, the leanest first on each rank."""
    hows: list[LayerRecompute] = [ranks.outer.recomputes[0]] * ranks.num_layers
    layout = replace(ranks.layout, stages=stages if ranks.layout.pp > 1 else None)
    held = layers_of_ranks(layout, num_layers=ranks.num_layers)
    for layers, option in zip(held, found.options, strict=True):
        left: dict[tuple[str, LayerRecompute], int] = {
            (block, how): count for block, how, count in reversed(_mixture_of(option))
        }
        for layer in layers:
            block = ranks.order[layer]
            place = next(each for each, count in left.items() if each[0] == block and count)
            left[place] -= 1
            hows[layer] = place[1]
    if len(set(hows)) == 1:
        layout = replace(layout, recompute=hows[0], recompute_layers=None)
    else:
        runs = tuple((how, len(list(run))) for how, run in itertools.groupby(hows))
        layout = replace(layout, recompute="mixed", recompute_layers=runs)
    return Filled(layout, ranks.weights.fixed + found.total, ranks.weights.fixed + found.bound)


def _mixture_of(option: Option) -> Mixture:
    assert isinstance(option.choice, tuple)
    return option.choice


def _compositions(number: int) -> Iterable[tuple[int, ...]]:
    """Every way to write a number as an ordered sum of positive ones; of 0 there is one, the empty."""
    if number == 0:
        yield ()
    for first in range(1, number + 1):
        for rest in _compositions(number - first):
            yield (first, *rest)
