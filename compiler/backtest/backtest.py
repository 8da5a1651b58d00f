"""Score a file of published measurements: every row priced or with a reason why not, then figures of merit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .as_spec import CannotPrice
from .price import Case, case_of
from .rows import TrainRow, publisher, read_rows
from .score import Pair, SourceScore, by_source, by_study, mean, quantile


@dataclass(frozen=True)
class Priced:
    """A row with what is predicted for it."""

    row: TrainRow
    step_s: float
    low_share: float
    """Ends of the step's interval, over the step."""
    high_share: float
    memory_gib: float
    memory_kind: str
    degrees: object
    left_out: Mapping[str, float]
    """Errors of predictions whose constants were fitted without the row's source, model (at its publisher) or publisher."""


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
                study=each.row.study,
            )
            for each in self.priced
            if each.row.step_time_s
        ]

    def left_out(self, without: str, *, covered: bool = False) -> list[Pair]:
        """Predicted without the source, model or publisher; `covered`: on accelerators that other publishers show too."""
        shown: dict[str, set[str]] = {}
        for each in self.priced:
            shown.setdefault(each.row.accelerator, set()).add(publisher(each.row.source))
        return [
            Pair(each.row.source, 1.0, 1.0 + each.left_out[without])
            for each in self.priced
            if without in each.left_out and (not covered or len(shown[each.row.accelerator]) > 1)
        ]

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
    """Mean over the studies that published different layouts for one question."""
    tau_apart: float | None
    """The same over pairs of layouts that differ by more than noise."""
    tau_studies: int


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
    without = {name: errors[case.row.id] for name, errors in left_out_errors().items() if case.row.id in errors}
    step = case.step()
    ends = (step.low / step.total, step.high / step.total)
    return Priced(case.row, step.total, *ends, case.memory_gib(), case.memory, degrees, without)


@cache
def left_out_errors() -> dict[str, dict[str, float]]:
    """What was left out -> row -> error (benchmarks/calibrate/fit_training.py --left-out)."""
    file = files("llmc.compiler.backtest").joinpath("left_out.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def summary(pairs: list[Pair]) -> Summary:
    """Over all sources, each counted once."""
    sources = by_source(pairs)
    studies = by_study(pairs)
    return Summary(
        rows=len(pairs),
        sources=len(sources),
        mean_of_medians=mean(source.median for source in sources),
        p90=quantile([pair.error for pair in pairs], 0.9) if pairs else None,
        bias=quantile([pair.predicted / pair.published - 1 for pair in pairs], 0.5) if pairs else None,
        tau=mean(study.tau for study in studies),
        tau_apart=mean(study.tau_apart for study in studies if study.tau_apart is not None),
        tau_studies=len(studies),
    )


def as_json(result: Backtest) -> dict[str, Any]:
    """Everything, for other programs."""
    return {
        "rows": len(result.priced) + len(result.unpriced),
        "step_time": asdict(summary(result.steps)),
        "step_time_left_out": {name: asdict(summary(result.left_out(name))) for name in left_out_errors()},
        "memory": asdict(summary(result.memory)),
        "sources": [asdict(source) for source in by_source(result.steps)],
        "studies": [asdict(study) for study in by_study(result.steps)],
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


def sources_beside(result: Backtest) -> list[tuple[SourceScore, SourceScore | None, SourceScore | None]]:
    """Each source's score, with those of constants fitted without it, and without its publisher; the worst first."""
    source, whole = (
        {each.source: each for each in by_source(result.left_out(name))} for name in ("source", "publisher")
    )
    return [
        (score, source.get(score.source), whole.get(score.source))
        for score in sorted(by_source(result.steps), key=lambda score: (-score.median, score.source))
    ]
