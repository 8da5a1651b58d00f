"""The metrics and labels that a PromQL expression asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SELECTOR = re.compile(r"\b(llmc_[a-z_0-9]+)\b(?:\{([^}]*)\})?")
_LABEL = re.compile(r'([a-z_]+)\s*(=~|=|!=|!~)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
FROM_SCRAPING = frozenset({"job", "instance", "namespace", "pod"})
"""Labels that Prometheus adds to each series."""


@dataclass(frozen=True)
class Selector:
    metric: str
    labels: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> Iterator[Selector]:
    """`llmc_requests_total{reason="error"}` and so on; a recorded series (`job:llmc_…`) is none."""
    without_recorded = re.sub(r"\bjob:[a-z0-9_:]+(\{[^}]*\})?", "", expression)
    for metric, labels in _SELECTOR.findall(without_recorded):
        yield Selector(metric, tuple(_LABEL.findall(labels)))


def recorded(expression: str) -> set[str]:
    return set(re.findall(r"\bjob:[a-z0-9_:]+", expression))


def grouping(expression: str) -> set[str]:
    """Labels that an expression groups by."""
    return {name.strip() for names in _GROUPING.findall(expression) for name in names.split(",") if name.strip()}
