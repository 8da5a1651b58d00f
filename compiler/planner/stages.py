"""Cut layers into pipeline stages, exactly.

    minimise    sum of costs + weight · longest span + longest tail          solve
    subject to  each stage is a run of at least `least` layers
                each stage takes one of its options                          Problem.options

An option says what a stage costs in the sum, how long one micro-batch is in it (span), and what it does once a step
(tail). Method: the smallest bound on spans that stages can keep, then a dynamic program for the sum under that bound, then
larger bounds as long as the sum may still fall by more than they cost (the sweep of Alpa, Zheng 2022, upwards). Tails are
bounded in the same way, downwards.

Relied on: a run of layers within another never has a longer span or tail, and fits where the other fits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

EQUAL = 1e-9
"""Relative difference below which two figures are the same."""
LARGEST = sys.float_info.max
MAX_BOUNDS = 64
"""Bounds on spans that are tried; beyond it the gap is reported."""


class Option(NamedTuple):
    """One way to run a stage."""

    cost: float
    span: float
    tail: float
    choice: object


Options = tuple[Option, ...]


@dataclass(frozen=True)
class Problem:
    """Layers in order, and what each run of them could be on each stage."""

    num_layers: int
    num_stages: int
    options: Callable[[int, int, int], Options]
    """(start, stop, stage) -> ways to run these layers there; none where they do not fit."""
    weight: float
    least_cost: float
    """No choice of options for all layers costs less."""
    least: int = 1
    mean_span: float = 0.0
    """About what spans are: where the search for the longest begins."""
    least_tail: float = 0.0
    """No cut has a shorter longest tail."""
    cutoff: float = math.inf
    """A solution that comes to more is of no use."""

    @property
    def longest_span(self) -> float:
        """Spans beyond which every solution comes to more than the cutoff."""
        spare = self.cutoff - self.least_cost - self.least_tail
        return spare / self.weight if self.weight else math.inf


@dataclass(frozen=True)
class Solution:
    """Where stages end, what each does, and what it comes to."""

    ends: tuple[int, ...]
    options: Options
    total: float
    bound: float
    """No solution is better than this; `total` where the search was exhaustive."""


class TooSlow(Exception):
    """No cut comes to the cutoff or less."""


def solve(problem: Problem) -> Solution | None:
    """The best stages, or None where no cut fits. TooSlow where none is of use; whether one fits is then not known.

    Cuts in the order of growing cost and span, each round with shorter tails, until what is left cannot be better.
    """
    found = _sweep(problem, longest_tail=math.inf)
    if found is None or found.bound - _tail(found) + problem.least_tail > problem.cutoff:
        if math.isfinite(problem.cutoff):
            raise TooSlow
        return None
    floor = _least_bottleneck(problem, _by_tail)
    best, bound = found, math.inf
    while found is not None:
        best = min(best, found, key=lambda each: each.total)
        if found.bound < found.total * (1 - EQUAL):
            bound = min(bound, found.bound + floor - _tail(found))
        without_tail = found.bound - _tail(found)
        if without_tail + floor >= best.total * (1 - EQUAL):
            break
        found = _sweep(problem, longest_tail=_tail(found) * (1 - EQUAL))
    return Solution(best.ends, best.options, best.total, min(best.total, bound))


def _tail(solution: Solution) -> float:
    return max(option.tail for option in solution.options)


Measure = Callable[[Option], float]


def _by_span(option: Option) -> float:
    return option.span


def _by_tail(option: Option) -> float:
    return option.tail


def _sweep(problem: Problem, *, longest_tail: float) -> Solution | None:
    """The stages of least cost and span, tails bounded. `bound` is exact for these two, with the solution's own tail."""
    span = _least_bottleneck(problem, _by_span, longest_tail=longest_tail)
    best = _cheapest(problem, span=span, tail=longest_tail) if math.isfinite(span) else None
    if best is None:
        return None
    least_cost, is_least = problem.least_cost, False
    for _ in range(MAX_BOUNDS):
        # A longer span pays only if the sum falls by more: beyond `most` it cannot.
        to_gain = _without_tail(problem, best) - problem.weight * span - least_cost
        most = span + to_gain / problem.weight if problem.weight else math.inf
        if (
            to_gain <= EQUAL * abs(best.total)
            or problem.weight * span + least_cost + problem.least_tail > problem.cutoff
        ):
            return best
        if not is_least:
            loosest = _cheapest(problem, span=most, tail=longest_tail)
            assert loosest is not None
            least_cost, is_least = sum(option.cost for option in loosest.options), True
            best = min(best, loosest, key=lambda each: _without_tail(problem, each))
            continue
        following = _next_span(problem, above=span, at_most=most, tail=longest_tail)
        if following is None:
            return best
        span = following
        found = _cheapest(problem, span=span, tail=longest_tail)
        assert found is not None
        best = min(best, found, key=lambda each: _without_tail(problem, each))
    bound = least_cost + problem.weight * span + _tail(best)
    return Solution(best.ends, best.options, best.total, min(best.total, bound))


def _without_tail(problem: Problem, solution: Solution) -> float:
    return sum(option.cost for option in solution.options) + problem.weight * _longest(solution)


def _longest(solution: Solution) -> float:
    return max(option.span for option in solution.options)


def _least_bottleneck(problem: Problem, measure: Measure, *, longest_tail: float = math.inf) -> float:
    """The smallest bound that every stage can keep; infinite where nothing fits, or not within the cutoff."""
    most = problem.longest_span if measure is _by_span else math.inf
    known = _greedy_bottleneck(problem, measure, longest_tail=longest_tail, most=most) * (1 + EQUAL)

    def admits(option: Option) -> bool:
        return measure(option) <= known and option.tail <= longest_tail

    least = {0: 0.0}
    for stage, windows in enumerate(_windows(problem, admits)):
        here: dict[int, float] = {}
        for start, before in least.items():
            for stop in range(max(windows.start, start + problem.least), windows.stop):
                spans = [measure(option) for option in problem.options(start, stop, stage) if admits(option)]
                if spans:
                    here[stop] = min(here.get(stop, math.inf), max(before, min(spans)))
        least = here
    return least.get(problem.num_layers, math.inf)


def _even_bottleneck(problem: Problem, measure: Measure, *, longest_tail: float) -> float:
    size, extra = divmod(problem.num_layers, problem.num_stages)
    if size < problem.least:
        return math.inf
    longest, start = 0.0, 0
    for stage in range(problem.num_stages):
        stop = start + size + (1 if stage < extra else 0)
        here = [measure(each) for each in problem.options(start, stop, stage) if each.tail <= longest_tail]
        if not here:
            return math.inf
        longest, start = max(longest, min(here)), stop
    return longest


def _greedy_bottleneck(problem: Problem, measure: Measure, *, longest_tail: float, most: float) -> float:
    """A bound that some cut keeps: the tightest, within a few per cent, under which stages that take all they can suffice."""

    def reach(bound: float) -> float:
        """The bottleneck of such a cut; infinite where it does not reach the end."""
        start, longest = 0, 0.0
        for stage in range(problem.num_stages):
            limit = problem.num_layers - problem.least * (problem.num_stages - 1 - stage)
            stop, taken = start + problem.least, math.inf
            while stop <= limit:
                here = [measure(each) for each in problem.options(start, stop, stage) if each.tail <= longest_tail]
                least = min(here, default=math.inf)
                if least > bound:
                    break
                taken, stop = least, stop + 1
            if math.isinf(taken):
                return math.inf
            start, longest = stop - 1, max(longest, taken)
        return longest if start == problem.num_layers else math.inf

    high = _even_bottleneck(problem, measure, longest_tail=longest_tail)
    bound = problem.mean_span * 1.1
    while math.isinf(high) and bound < min(most, LARGEST):
        bound = min(most, bound * 1.5 if 0.0 < bound < problem.mean_span * 20 else LARGEST)
        high = reach(bound)
    if math.isfinite(most) and high > most:
        high = reach(most)
        if math.isinf(high):  # cuts whose stages do not take all they can are still to be tried
            return most
    low = high / problem.num_stages / 2 if math.isfinite(high) else 0.0
    for _ in range(6 if math.isfinite(high) else 0):
        middle = (low + high) / 2
        found = reach(middle)
        low, high = (middle, high) if math.isinf(found) else (low, found)
        if high - low <= 0.05 * high:
            break
    return high


def _windows(problem: Problem, admits: Callable[[Option], bool]) -> list[range]:
    """Where each stage can end, at most: as far as stages before it reach, and not before what later ones can still cover."""
    least, stages, num_layers = problem.least, problem.num_stages, problem.num_layers
    latest, stop = [], 0
    for stage in range(stages):
        limit = num_layers - least * (stages - 1 - stage)
        start, stop = stop, max(stop, least * (stage + 1))
        while stop < limit and any(map(admits, problem.options(start, stop + 1, stage))):
            stop += 1
        latest.append(stop)
    earliest, start = [0] * stages, num_layers
    for stage in reversed(range(stages)):
        earliest[stage] = start
        stop, start = start, min(start, num_layers - least * (stages - stage))
        while start > least * stage and any(map(admits, problem.options(start - 1, stop, stage))):
            start -= 1
    return [range(first, last + 1) for first, last in zip(earliest, latest, strict=True)]


def _cheapest(problem: Problem, *, span: float, tail: float) -> Solution | None:
    """Least sum of costs with bounded spans and tails: a dynamic program over (stage, first layer)."""

    def admits(option: Option) -> bool:
        return option.span <= span and option.tail <= tail

    windows = _windows(problem, admits)
    rest: dict[int, tuple[float, tuple[tuple[int, Option], ...]]] = {problem.num_layers: (0.0, ())}
    for stage in reversed(range(problem.num_stages)):
        here: dict[int, tuple[float, tuple[tuple[int, Option], ...]]] = {}
        for start in windows[stage - 1] if stage else (0,):
            for stop, (cost, chosen) in rest.items():
                if stop - start < problem.least or stop not in windows[stage]:
                    continue
                fitting = [option for option in problem.options(start, stop, stage) if admits(option)]
                if not fitting:
                    continue
                option = min(fitting, key=lambda each: (each.cost, each.span))
                if start not in here or cost + option.cost < here[start][0]:
                    here[start] = (cost + option.cost, ((stop, option), *chosen))
        rest = here
    if 0 not in rest:
        return None
    cost, chosen = rest[0]
    options = tuple(option for _, option in chosen)
    longest, last = max(option.span for option in options), max(option.tail for option in options)
    total = cost + problem.weight * longest + last
    return Solution(tuple(stop for stop, _ in chosen), options, total, total)


def _next_span(problem: Problem, *, above: float, at_most: float, tail: float) -> float | None:
    """The smallest span above a bound that some option within reach has."""

    def admits(option: Option) -> bool:
        return option.span <= at_most and option.tail <= tail

    windows, found, threshold = _windows(problem, admits), None, above * (1 + EQUAL)
    for stage in range(problem.num_stages):
        for start in windows[stage - 1] if stage else (0,):
            for stop in range(max(windows[stage].start, start + problem.least), windows[stage].stop):
                for option in problem.options(start, stop, stage):
                    if threshold < option.span <= at_most and (found is None or option.span < found):
                        found = option.span
    return found
