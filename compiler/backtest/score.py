"""Figures of merit of predictions. Rows of one table are not independent, so errors are taken by source first."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
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
    study: str = ""
    """The publication whose layouts compete: its tables and cases together (rows.py)."""

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


NOISE = 0.05
"""What one configuration published twice differs by, in the median."""


@dataclass(frozen=True)
class StudyScore:
    """How one study's layouts were ordered."""

    study: str
    pairs: int
    tau: float
    pairs_apart: int
    tau_apart: float | None
    """Of pairs that differ by more than noise; None without one."""


def by_study(pairs: Iterable[Pair]) -> list[StudyScore]:
    """Studies that published different layouts for one question."""
    found = []
    for study, group in grouped(pairs, lambda pair: pair.study or pair.source).items():
        tau, apart = ordering(group), ordering(group, apart=NOISE)
        if tau is not None:
            number, number_apart = (sum(1 for _ in _competing(group, apart=each)) for each in (0.0, NOISE))
            found.append(StudyScore(str(study), number, tau, number_apart, apart))
    return found


def ordering(pairs: Iterable[Pair], *, apart: float = 0.0) -> float | None:
    """Kendall's tau-a over all pairs of different layouts with the same question: right less wrong, over all of them.

    Layouts published as equal, or within a factor of 1 + `apart`, say nothing and are left out; predicting a tie counts as
    neither right nor wrong.
    """
    right = total = 0
    for one, other in _competing(pairs, apart=apart):
        agreement = (one.published - other.published) * (one.predicted - other.predicted)
        right += (agreement > 0) - (agreement < 0)
        total += 1
    return right / total if total else None


def _competing(pairs: Iterable[Pair], *, apart: float) -> Iterator[tuple[Pair, Pair]]:
    for group in grouped(pairs, lambda pair: pair.question).values():
        for one, other in combinations(group, 2):
            low, high = sorted((one.published, other.published))
            if one.layout != other.layout and high > low * (1 + apart):
                yield one, other


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
