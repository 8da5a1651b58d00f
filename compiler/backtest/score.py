"""Figures of merit of predictions. Rows of one table are not independent, so errors are taken by source first."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Pair:
    """A published figure and the predicted one. `question` and `layout` say what competes with what."""

    source: str
    published: float
    predicted: float
    question: Hashable = None
    layout: Hashable = None

    @property
    def error(self) -> float:
        """|predicted / published - 1|"""
        return abs(self.predicted / self.published - 1)


@dataclass(frozen=True)
class SourceScore:
    """One source's rows."""

    source: str
    rows: int
    median: float
    p90: float
    bias: float
    """Median of predicted / published, less 1."""
    tau: float | None
    """Kendall's rank correlation of layouts that do the same work on the same machine; None without two of them."""


def by_source(pairs: Iterable[Pair]) -> list[SourceScore]:
    """A score for each source, in order of appearance."""
    groups = grouped(pairs, lambda pair: pair.source)
    return [
        SourceScore(
            source=str(source),
            rows=len(group),
            median=quantile([pair.error for pair in group], 0.5),
            p90=quantile([pair.error for pair in group], 0.9),
            bias=quantile([pair.predicted / pair.published - 1 for pair in group], 0.5),
            tau=ordering(group),
        )
        for source, group in groups.items()
    ]


def ordering(pairs: Iterable[Pair]) -> float | None:
    """Kendall's tau-a over all pairs of different layouts with the same question: right less wrong, over all of them.

    Layouts published as equal say nothing and are left out; predicting a tie counts as neither right nor wrong.
    """
    right = total = 0
    for group in grouped(pairs, lambda pair: pair.question).values():
        for one, other in combinations(group, 2):
            if one.layout == other.layout or one.published == other.published:
                continue
            agreement = (one.published - other.published) * (one.predicted - other.predicted)
            right += (agreement > 0) - (agreement < 0)
            total += 1
    return right / total if total else None


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between order statistics, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def grouped(pairs: Iterable[Pair], key: Callable[[Pair], Hashable]) -> Mapping[Hashable, list[Pair]]:
    groups: dict[Hashable, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(key(pair), []).append(pair)
    return groups
