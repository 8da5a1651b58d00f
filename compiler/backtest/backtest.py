"""Score a file of published measurements: every row priced or with a reason why not, then figures of merit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .as_spec import CannotPrice
from .price import Case, case_of
from .rows import TrainRow, read_rows
from .score import Pair, SourceScore, by_source, mean, quantile


@dataclass(frozen=True)
class Priced:
    """A row with what is predicted for it."""

    row: TrainRow
    step_s: float
    memory_gib: float
    memory_kind: str
    degrees: object
    left_out: float | None
    """Error of a prediction whose constants were fitted without the row's publisher; None where that was not done."""


@dataclass(frozen=True)
class Backtest:
    """The answer of `llmc backtest`."""

    priced: tuple[Priced, ...]
    unpriced: tuple[tuple[TrainRow, str], ...]

    @property
    def steps(self) -> list[Pair]:
        """Seconds a token, so that layouts tried with other batches compare."""
        return [
            Pair(
                source=each.row.source,
                published=each.row.step_time_s / each.row.global_batch,
                predicted=each.step_s / each.row.global_batch,
                question=each.row.question,
                layout=each.degrees,
            )
            for each in self.priced
            if each.row.step_time_s
        ]

    @property
    def left_out(self) -> list[Pair]:
        return [Pair(each.row.source, 1.0, 1.0 + each.left_out) for each in self.priced if each.left_out is not None]

    @property
    def memory(self) -> list[Pair]:
        return [
            Pair(each.row.source, each.row.peak_mem_gib, each.memory_gib)
            for each in self.priced
            if each.row.peak_mem_gib
        ]


@dataclass(frozen=True)
class Summary:
    """One quantity over a file."""

    rows: int
    sources: int
    mean_of_medians: float | None
    p90: float | None
    bias: float | None
    tau: float | None
    """Mean over the sources that published different layouts for one question."""
    tau_sources: int


def backtest(path: Path) -> Backtest:
    """Price every row of a file. Raises NotMeasurements."""
    priced: list[Priced] = []
    unpriced: list[tuple[TrainRow, str]] = []
    for row in read_rows(path):
        try:
            case = case_of(row)
        except CannotPrice as fault:
            unpriced.append((row, str(fault)))
            continue
        priced.append(price(case))
    return Backtest(tuple(priced), tuple(unpriced))


def price(case: Case) -> Priced:
    """One row."""
    degrees = replace(case.layout, micro_batch=1, grad_accumulation=1)
    return Priced(case.row, case.step_s(), case.memory_gib(), case.memory, degrees, left_out_errors().get(case.row.id))


@cache
def left_out_errors() -> dict[str, float]:
    """Row -> error without its publisher (benchmarks/calibrate/fit_training.py --left-out)."""
    file = files("llmc.compiler.backtest").joinpath("left_out.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def summary(pairs: list[Pair]) -> Summary:
    """Over all sources, each counted once."""
    sources = by_source(pairs)
    taus = [source.tau for source in sources if source.tau is not None]
    return Summary(
        rows=len(pairs),
        sources=len(sources),
        mean_of_medians=mean(source.median for source in sources),
        p90=quantile([pair.error for pair in pairs], 0.9) if pairs else None,
        bias=quantile([pair.predicted / pair.published - 1 for pair in pairs], 0.5) if pairs else None,
        tau=mean(taus),
        tau_sources=len(taus),
    )


def as_json(result: Backtest) -> dict[str, Any]:
    """Everything, for other programs."""
    return {
        "rows": len(result.priced) + len(result.unpriced),
        "step_time": asdict(summary(result.steps)),
        "step_time_left_out": asdict(summary(result.left_out)),
        "memory": asdict(summary(result.memory)),
        "sources": [asdict(source) for source in by_source(result.steps)],
        "memory_sources": [asdict(source) for source in by_source(result.memory)],
        "predictions": [
            {
                "id": each.row.id,
                "step_time_s": each.row.step_time_s,
                "predicted_s": each.step_s,
                "peak_mem_gib": each.row.peak_mem_gib,
                "predicted_gib": each.memory_gib,
            }
            for each in result.priced
        ],
        "unpriced": [{"id": row.id, "why": why} for row, why in result.unpriced],
    }


def sources_beside(result: Backtest) -> list[tuple[SourceScore, SourceScore | None]]:
    """Each source's score, with that of constants fitted without its publisher; the worst first."""
    without = {score.source: score for score in by_source(result.left_out)}
    return [
        (score, without.get(score.source))
        for score in sorted(by_source(result.steps), key=lambda score: (-score.median, score.source))
    ]
