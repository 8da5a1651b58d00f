"""Layers of a few classes, each recomputed in some way: the mixtures that fit a budget of memory and recompute no more than they must."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .layout import LayerRecompute
from .stages import EQUAL

Counts = tuple[tuple[str, int], ...]
"""(block, how many)"""
Mixture = tuple[tuple[str, LayerRecompute, int], ...]
"""(block, recompute, how many)"""

MAX_HEADS = 2_000
"""Mixtures of all classes but the last, beyond which those that others beat are dropped."""


class Figures(NamedTuple):
    """Of one layer and micro-batch."""

    kept: float
    """Bytes a sequence."""
    rebuilt: float
    """Bytes a sequence that are there while it runs backward."""
    cost: float
    span: float


class Mixed(NamedTuple):
    """Layers with what they compute again."""

    cost: float
    span: float
    kept: float
    mixture: Mixture


Layers = Mapping[tuple[str, LayerRecompute], Figures]
Allowed = Mapping[str, Sequence[LayerRecompute]]
"""What each block may recompute, the least first."""


def mixtures(layers: Layers, counts: Counts, allowed: Allowed, *, budget: float) -> Iterable[Mixed]:
    """For all but the last class every mixture that may still fit, for the last only what must be recomputed."""
    *others, (block, count) = counts
    heads = [Mixed(0.0, 0.0, 0.0, ())]
    for name, number in others:
        heads = [
            Mixed(head.cost + cost, head.span + span, head.kept + kept, (*head.mixture, *mixture))
            for head in heads
            for cost, span, kept, mixture in _of_class(layers, name, number, allowed[name])
        ]
        heads = _edge(heads) if len(heads) > MAX_HEADS else heads
    for head in heads:
        for cost, span, kept, mixture in _fewest(layers, block, count, allowed[block], budget=budget - head.kept):
            yield Mixed(head.cost + cost, head.span + span, head.kept + kept, (*head.mixture, *mixture))


def _of_class(layers: Layers, block: str, count: int, allowed: Sequence[LayerRecompute]) -> Iterable[Mixed]:
    for numbers in _splits(count, len(allowed)):
        yield _mixed(layers, block, list(zip(allowed, numbers, strict=True)))


def _fewest(
    layers: Layers, block: str, count: int, allowed: Sequence[LayerRecompute], *, budget: float
) -> Iterable[Mixed]:
    """By the number of layers at the leanest recompute, as few as fit at the one between."""
    figures = [layers[block, how] for how in allowed]
    excess = count * figures[0].kept - budget
    if excess <= 0:
        yield _mixed(layers, block, [(allowed[0], count)])
        return
    if len(allowed) == 1:
        return
    saved = [figures[0].kept - each.kept for each in figures[1:]]
    for leanest in range(count + 1) if len(allowed) > 2 else (0,):
        left = excess - leanest * saved[-1] if len(allowed) > 2 else excess
        between = max(0, math.ceil(left / saved[0] * (1 - EQUAL))) if saved[0] > 0 else 0 if left <= 0 else count + 1
        if leanest + between <= count:
            numbers = [count - leanest - between, between, *([leanest] if len(allowed) > 2 else [])]
            yield _mixed(layers, block, list(zip(allowed, numbers, strict=True)))
        if between == 0:
            return


def _mixed(layers: Layers, block: str, numbers: Sequence[tuple[LayerRecompute, int]]) -> Mixed:
    cost = span = kept = 0.0
    for how, count in numbers:
        each = layers[block, how]
        cost, span, kept = cost + count * each.cost, span + count * each.span, kept + count * each.kept
    return Mixed(cost, span, kept, tuple((block, how, count) for how, count in numbers if count))


def _splits(count: int, parts: int) -> Iterable[tuple[int, ...]]:
    """Every way to write a number as an ordered sum of so many."""
    if parts == 1:
        yield (count,)
        return
    for first in range(count, -1, -1):
        for rest in _splits(count - first, parts - 1):
            yield (first, *rest)


def _edge(points: Iterable[Mixed]) -> list[Mixed]:
    """Without those that another one beats in everything."""
    kept: list[Mixed] = []
    for point in sorted(points):
        if not any(other.span <= point.span and other.kept <= point.kept for other in kept):
            kept.append(point)
    return kept
