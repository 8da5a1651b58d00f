"""Fit the serving model's constants to published rows, and rewrite their values in compiler/cost/serving_constants.toml.

    .venv/bin/python benchmarks/calibrate/fit_serving.py            # print what a fit would change
    .venv/bin/python benchmarks/calibrate/fit_serving.py --write    # and write it
    .venv/bin/python benchmarks/calibrate/fit_serving.py --left-out # fit without each publisher in turn (ten minutes)

Gauss-Newton on log(predicted / published) of time per token, time to first token (a third of the weight, a wider knee) and, where
neither is printed, tokens/s. Every group (source and engine) counts as the fourth root of its rows, rows far off count less (soft L1),
and each constant is held to its prior with the spread that its bounds give it. Only constants with a `prior` move. Fits without a
publisher start from the constants as they are and keep the slopes found there.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmc.compiler.backtest.serve_price import ServeCase, serve_case_of
from llmc.compiler.backtest.serve_rows import read_serve_rows
from llmc.compiler.cost.serving_constants import protocol_from, serve_constants_from, serving_table, software_from

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "benchmarks/measurements/serve.csv"
CONSTANTS = ROOT / "compiler/cost/serving_constants.toml"
LEFT_OUT = ROOT / "compiler/backtest/serve_left_out.json"
KNEE = {"tpot": 0.1, "ttft": 0.2, "rate": 0.1}
WEIGHT = {"tpot": 1.0, "ttft": 0.35, "rate": 0.5}
PRIOR_WEIGHT = 0.0011
"""Of a prior that is off by its spread."""
STEP = 0.01
LEAST = 1e-12
KEEP_SLOPES = 4
"""Rounds that slopes are kept for: in logarithms they hardly change, and they are most of a fit's time."""
FEW = 5
"""A group of fewer rows counts less."""


@dataclass(frozen=True)
class Free:
    """A constant that may move."""

    path: tuple[str, ...]
    prior: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Standard deviation of its logarithm: its bounds are two of them away, as far as 0.07 and 1 allow."""
        reach = min(math.log(self.high / self.prior), math.log(self.prior / max(self.low, LEAST)))
        return min(max(reach / 2, 0.07), 1.0)


def free_constants(tables: dict[str, Any]) -> list[Free]:
    found: list[Free] = []

    def walk(entries: dict[str, Any], path: tuple[str, ...]) -> None:
        for name, entry in entries.items():
            if isinstance(entry, dict) and "prior" in entry:
                found.append(Free((*path, name), entry["prior"], max(entry["low"], entry["prior"] / 20), entry["high"]))
            elif isinstance(entry, dict):
                walk(entry, (*path, name))

    walk(tables, ())
    return found


def value_at(tables: dict[str, Any], path: tuple[str, ...]) -> float:
    for key in path:
        tables = tables[key]
    return tables["value"]


def with_values(tables: dict[str, Any], free: Sequence[Free], values: Sequence[float]) -> dict[str, Any]:
    changed = deepcopy(tables)
    for each, value in zip(free, values, strict=True):
        entry = changed
        for key in each.path:
            entry = entry[key]
        entry["value"] = float(value)
    return changed


class Problem:
    """Published loads, priced under any constants."""

    def __init__(self, cases: Sequence[ServeCase]) -> None:
        self.cases = cases
        self.groups = np.array([case.row.group for case in cases])
        self.publishers = np.array([case.row.publisher for case in cases])
        rows = [case.row for case in cases]
        nan = math.nan
        self.published = {
            "tpot": np.log([row.tpot_s or nan for row in rows]),
            "ttft": np.log([row.ttft_s or nan for row in rows]),
            "rate": np.log([row.output_tokens_per_s or nan for row in rows]),
        }
        self.rows = {name: np.flatnonzero(~np.isnan(values)) for name, values in self.published.items()}
        self.rows["rate"] = np.array(
            [at for at in self.rows["rate"] if not rows[at].tpot_s]
        )  # else it says nothing new

    def log_ratios(self, tables: dict[str, Any]) -> dict[str, np.ndarray]:
        constants: dict[tuple[str, str], Any] = {}
        software: dict[tuple[str, str], Any] = {}
        found = {name: np.full(len(self.cases), math.nan) for name in self.published}
        facts = protocol_from(tables)
        for index, case in enumerate(self.cases):
            machine = case.engine.machine
            architecture = machine.constants.architecture
            key, engine = (architecture, machine.kind), (case.program.software, architecture)
            if key not in constants:
                constants[key] = serve_constants_from(tables, architecture=architecture, kind=machine.kind)
            if engine not in software:
                software[engine] = software_from(tables, name=engine[0], architecture=architecture)
            case.engine.reprice(constants[key], software[engine])
            service = case.service(facts)
            found["tpot"][index] = math.log(service.tpot_p50_s)
            found["ttft"][index] = math.log(service.ttft_p50_s)
            found["rate"][index] = math.log(case.output_tokens_per_s(service))
        return {name: values - self.published[name] for name, values in found.items()}

    def weights(self, name: str, keep: np.ndarray) -> np.ndarray:
        """Of each row that prints this and is kept."""
        at = self.rows[name][keep[self.rows[name]]]
        counts = Counter(self.groups[at])
        weights = np.zeros(len(self.cases))
        for index in at:
            rows = counts[self.groups[index]]
            weights[index] = WEIGHT[name] * min(1.0, rows / FEW) * rows**0.25 / rows
        return weights


Slopes = dict[str, np.ndarray]


def slopes_at(problem: Problem, tables: dict[str, Any], values: np.ndarray) -> Slopes:
    """Of the log ratios over the constants' logarithms."""
    free = free_constants(tables)
    here = problem.log_ratios(with_values(tables, free, values))
    found: dict[str, list[np.ndarray]] = {name: [] for name in here}
    for index, each in enumerate(free):
        step = STEP if math.log(values[index]) + STEP <= math.log(each.high) else -STEP
        beside = values.copy()
        beside[index] *= math.exp(step)
        for name, ratios in problem.log_ratios(with_values(tables, free, beside)).items():
            found[name].append(np.nan_to_num((ratios - here[name]) / step))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def fit(
    problem: Problem,
    tables: dict[str, Any],
    keep: np.ndarray,
    *,
    start: np.ndarray,
    rounds: int,
    slopes: Slopes | None = None,
) -> tuple[np.ndarray, float]:
    """Values of the free constants that suit the kept rows best."""
    free = free_constants(tables)
    priors = np.log([each.prior for each in free])
    spreads = np.array([each.spread for each in free])
    low, high = np.log([each.low for each in free]), np.log([each.high for each in free])
    weights = {name: problem.weights(name, keep) for name in problem.published}

    def priced(at: np.ndarray) -> dict[str, np.ndarray]:
        ratios = problem.log_ratios(with_values(tables, free, np.exp(at)))
        return {name: np.nan_to_num(values) for name, values in ratios.items()}

    def loss(at: np.ndarray, ratios: dict[str, np.ndarray]) -> float:
        total = PRIOR_WEIGHT * float(np.sum(((at - priors) / spreads) ** 2))
        for name, values in ratios.items():
            robust = 2 * KNEE[name] ** 2 * (np.sqrt(1 + (values / KNEE[name]) ** 2) - 1)
            total += float(weights[name] @ robust)
        return total

    at = np.clip(np.log(start), low, high)
    ratios = priced(at)
    best, damping = loss(at, ratios), 1e-2
    known, age = slopes, 0
    for _ in range(rounds):
        normal = PRIOR_WEIGHT * np.diag(1 / spreads**2)
        right = -PRIOR_WEIGHT * (at - priors) / spreads**2
        if known is None:
            known, age = slopes_at(problem, tables, np.exp(at)), 0
        here = known
        for name, values in ratios.items():
            row_weights = weights[name] / np.sqrt(1 + (values / KNEE[name]) ** 2)
            normal += here[name].T @ (row_weights[:, None] * here[name])
            right -= here[name].T @ (row_weights * values)
        for _ in range(6):
            move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), right)
            trial = np.clip(at + np.clip(move, -0.4, 0.4), low, high)
            tried = priced(trial)
            if loss(trial, tried) < best:
                break
            damping *= 5
        else:
            if slopes is not None or age == 0:
                break
            known, damping = None, 1e-2
            continue
        gain = best - loss(trial, tried)
        at, ratios, best = trial, tried, loss(trial, tried)
        damping /= 3
        print(f"  loss {best:.5f}", flush=True)
        age += 1
        if gain < 2e-3 * best:
            if slopes is not None or age == 1:
                break
            known = None
        elif slopes is None and age == KEEP_SLOPES:
            known = None
    return np.exp(at), best


def summary(problem: Problem, ratios: dict[str, np.ndarray]) -> str:
    parts = []
    for name, values in ratios.items():
        errors = np.abs(np.exp(values) - 1)
        medians = []
        for group in dict.fromkeys(problem.groups):
            own = errors[(problem.groups == group) & ~np.isnan(errors)]
            if len(own) >= FEW:
                medians.append(np.median(own))
        parts.append(f"{name} {np.mean(medians):.1%}")
    return ", ".join(parts)


def left_out(problem: Problem, tables: dict[str, Any], start: np.ndarray, *, rounds: int) -> None:
    """Errors of each row under constants that its publisher had no part in."""
    free = free_constants(tables)
    found: dict[str, dict[str, float]] = {}
    slopes = slopes_at(problem, tables, start)
    for publisher in dict.fromkeys(problem.publishers):
        out = problem.publishers == publisher
        if out.sum() < FEW:
            continue
        values, _ = fit(problem, tables, ~out, start=start, rounds=rounds, slopes=slopes)
        ratios = problem.log_ratios(with_values(tables, free, values))
        for index in np.flatnonzero(out):
            row = problem.cases[index].row.id
            found[row] = {
                name: round(float(np.exp(each[index]) - 1), 4)
                for name, each in ratios.items()
                if not np.isnan(each[index])
            }
        names = {name: np.abs(np.exp(each[out]) - 1) for name, each in ratios.items()}
        figures = ", ".join(
            f"{name} {np.nanmedian(each):.1%}" for name, each in names.items() if not np.all(np.isnan(each))
        )
        print(f"{out.sum():5d} rows  {figures}  {publisher}", flush=True)
    LEFT_OUT.write_text(json.dumps(found, separators=(",", ":")).replace("},", "},\n") + "\n", encoding="utf-8")


def write(values: dict[tuple[str, ...], float]) -> None:
    """Rewrite `value` of fitted lines; everything else stays as it was written."""
    lines, section = [], ()
    for line in CONSTANTS.read_text(encoding="utf-8").splitlines():
        heading = re.match(r"\[([\w.]+)\]", line)
        if heading:
            section = tuple(heading[1].split("."))
        value = values.get((*section, line.partition(" = ")[0]))
        lines.append(line if value is None else re.sub(r"value = [\d.e+-]+", f"value = {value:.3g}", line, count=1))
    CONSTANTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    problem = Problem([serve_case_of(row) for row in read_serve_rows(ROWS)])
    tables: dict[str, Any] = dict(serving_table())
    free = free_constants(tables)
    now = np.array([max(value_at(tables, each.path), LEAST) for each in free])
    if options.left_out:
        left_out(problem, tables, now, rounds=options.rounds)
        return
    print("before:", summary(problem, problem.log_ratios(tables)))
    values, _ = fit(problem, tables, np.ones(len(problem.cases), dtype=bool), start=now, rounds=options.rounds)
    print("after: ", summary(problem, problem.log_ratios(with_values(tables, free, values))))
    for each, value, old in zip(free, values, now, strict=True):
        edge = " at its bound" if value >= 0.999 * each.high or value <= 1.001 * each.low else ""
        print(f"  {'.'.join(each.path):42} {old:10.4g} -> {value:10.4g}   prior {each.prior:g}{edge}")
    if options.write:
        write({each.path: float(value) for each, value in zip(free, values, strict=True)})


if __name__ == "__main__":
    main()
