"""Score a file of published serving rows: every row priced or with a reason why not, then figures of merit by group."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .as_spec import CannotPrice
from .score import Pair, grouped, mean, quantile
from .serve_price import ServeCase, serve_case_of
from .serve_rows import ServeRow, read_serve_rows

LEAST_ROWS = 5
"""A group of fewer rows is shown and not counted."""
LOW_LOAD = 4
"""Requests in flight up to which the time to first token is no queue."""
NAMES = {"tpot": "TPOT", "rate": "tokens/s", "ttft": "TTFT"}


@dataclass(frozen=True)
class PricedServe:
    """A row with what is predicted for it. Seconds, and output tokens a second."""

    row: ServeRow
    has_experts: bool
    tpot_s: float
    ttft_s: float
    output_tokens_per_s: float
    left_out: dict[str, float]
    """Signed errors by name of a prediction whose constants were fitted without the row's publisher."""

    def pair(self, name: str) -> Pair | None:
        """Published and predicted, where the row prints it."""
        row = self.row
        published, predicted = {
            "tpot": (row.tpot_s, self.tpot_s),
            "ttft": (row.ttft_s, self.ttft_s),
            "rate": (row.output_tokens_per_s, self.output_tokens_per_s),
        }[name]
        return Pair(row.group, published, predicted) if published else None

    def left_out_pair(self, name: str) -> Pair | None:
        error = self.left_out.get(name)
        if error is None or self.pair(name) is None:
            return None
        return Pair(self.row.group, 1.0, 1.0 + error)


@dataclass(frozen=True)
class GroupScore:
    """One source and engine."""

    group: str
    rows: int
    median: float
    p90: float
    bias: float
    left_out: float | None
    """Median under constants that the publisher had no part in."""


@dataclass(frozen=True)
class Regret:
    """Layouts that compete for one load a device: what the pick loses against the best published one."""

    questions: int
    ours: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class ServeBacktest:
    """The answer of `llmc backtest` for serving rows."""

    priced: tuple[PricedServe, ...]
    unpriced: tuple[tuple[ServeRow, str], ...]

    def groups(self, name: str, keep: Callable[[PricedServe], bool] = lambda each: True) -> list[GroupScore]:
        """Scores of one quantity, over the rows that are kept."""
        kept = [each for each in self.priced if keep(each)]
        pairs = [pair for each in kept if (pair := each.pair(name)) is not None]
        without = grouped((pair for each in kept if (pair := each.left_out_pair(name))), lambda pair: pair.source)
        return [
            _score(str(group), found, without.get(group, []))
            for group, found in grouped(pairs, lambda pair: pair.source).items()
        ]

    def regret(self) -> Regret | None:
        """Tokens/s a device that a pick loses, over questions with two or more layouts."""
        lost: dict[str, list[float]] = {"ours": [], "smallest": [], "largest": []}
        with_rate = [each for each in self.priced if each.row.per_device_rate]
        for asked in _by(with_rate, lambda each: each.row.question).values():
            best = _by(asked, lambda each: each.row.layout)
            if len(best) < 2:
                continue
            entries = [entry[0] for entry in best.values()]
            rates = {id(each): each.row.per_device_rate or 0.0 for each in entries}
            most = max(rates.values())
            picks = {
                "ours": max(entries, key=lambda each: each.output_tokens_per_s / each.row.accelerators),
                "smallest": min(entries, key=lambda each: each.row.tp),
                "largest": max(entries, key=lambda each: each.row.tp),
            }
            for name, pick in picks.items():
                lost[name].append(1 - rates[id(pick)] / most)
        if not lost["ours"]:
            return None
        figures = {name: sum(values) / len(values) for name, values in lost.items()}
        return Regret(questions=len(lost["ours"]), **figures)


def _by(entries: Iterable[PricedServe], key: Callable[[PricedServe], Any]) -> dict[Any, list[PricedServe]]:
    found: dict[Any, list[PricedServe]] = {}
    for each in entries:
        found.setdefault(key(each), []).append(each)
    return found


def _score(group: str, pairs: Sequence[Pair], without: Sequence[Pair]) -> GroupScore:
    errors = [pair.error for pair in pairs]
    return GroupScore(
        group=group,
        rows=len(pairs),
        median=quantile(errors, 0.5),
        p90=quantile(errors, 0.9),
        bias=quantile([pair.predicted / pair.published - 1 for pair in pairs], 0.5),
        left_out=quantile([pair.error for pair in without], 0.5) if without else None,
    )


@dataclass(frozen=True)
class ServeSummary:
    """One quantity over the groups that are large enough."""

    groups: int
    rows: int
    mean_of_medians: float | None
    left_out: float | None


def summary_of(groups: Sequence[GroupScore]) -> ServeSummary:
    counted = [group for group in groups if group.rows >= LEAST_ROWS]
    return ServeSummary(
        groups=len(counted),
        rows=sum(group.rows for group in counted),
        mean_of_medians=mean(group.median for group in counted),
        left_out=mean(group.left_out for group in counted if group.left_out is not None),
    )


def headlines(result: ServeBacktest) -> dict[str, ServeSummary]:
    """What the model is judged by."""
    is_low = lambda each: (each.row.concurrency or 0) <= LOW_LOAD  # noqa: E731
    return {
        "TPOT": summary_of(result.groups("tpot")),
        "TPOT, dense": summary_of(result.groups("tpot", lambda each: not each.has_experts)),
        "TPOT, experts": summary_of(result.groups("tpot", lambda each: each.has_experts)),
        "tokens/s": summary_of(result.groups("rate")),
        "TTFT": summary_of(result.groups("ttft")),
        f"TTFT, {LOW_LOAD} requests or fewer": summary_of(result.groups("ttft", is_low)),
    }


def backtest_serving(path: Path) -> ServeBacktest:
    """Price every row of a file. Raises NotMeasurements."""
    priced: list[PricedServe] = []
    unpriced: list[tuple[ServeRow, str]] = []
    for row in read_serve_rows(path):
        try:
            priced.append(price_serving(serve_case_of(row)))
        except CannotPrice as fault:
            unpriced.append((row, str(fault)))
    return ServeBacktest(tuple(priced), tuple(unpriced))


def price_serving(case: ServeCase) -> PricedServe:
    """One row."""
    service = case.service()
    return PricedServe(
        row=case.row,
        has_experts=case.has_experts,
        tpot_s=service.tpot_p50_s,
        ttft_s=service.ttft_p50_s,
        output_tokens_per_s=case.output_tokens_per_s(service),
        left_out=serving_left_out().get(case.row.id, {}),
    )


@cache
def serving_left_out() -> dict[str, dict[str, float]]:
    """Row -> errors without its publisher (benchmarks/calibrate/fit_serving.py --left-out)."""
    file = files("llmc.compiler.backtest").joinpath("serve_left_out.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def serving_as_json(result: ServeBacktest) -> dict[str, Any]:
    """Everything, for other programs."""
    regret = result.regret()
    return {
        "rows": len(result.priced) + len(result.unpriced),
        "summary": {name: asdict(figures) for name, figures in headlines(result).items()},
        "regret": asdict(regret) if regret is not None else None,
        "groups": {NAMES[name]: [asdict(group) for group in result.groups(name)] for name in NAMES},
        "predictions": [
            {
                "id": each.row.id,
                "tpot_s": each.row.tpot_s,
                "predicted_tpot_s": each.tpot_s,
                "ttft_s": each.row.ttft_s,
                "predicted_ttft_s": each.ttft_s,
                "output_tokens_per_s": each.row.output_tokens_per_s,
                "predicted_output_tokens_per_s": each.output_tokens_per_s,
            }
            for each in result.priced
        ],
        "unpriced": [{"id": row.id, "why": why} for row, why in result.unpriced],
    }
