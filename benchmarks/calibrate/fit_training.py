"""Fit the training model's constants to published steps, and rewrite their values in compiler/cost/constants.toml.

    .venv/bin/python benchmarks/calibrate/fit_training.py            # print what a fit would change
    .venv/bin/python benchmarks/calibrate/fit_training.py --write    # and write it
    .venv/bin/python benchmarks/calibrate/fit_training.py --left-out # and without each source, model and publisher in turn

Gauss-Newton on log(predicted / published): every source counts once however many rows it has, rows far off count less
(soft L1), and each constant is held to its prior with a spread of PRIOR_SPREAD in its logarithm. Only constants with a
`prior` move, within their bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmc.compiler.backtest.price import Case, case_of
from llmc.compiler.backtest.rows import publisher, read_rows
from llmc.compiler.cost.collectives import Link
from llmc.compiler.cost.constants import constants_from, table

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "benchmarks/measurements/train.csv"
CONSTANTS = ROOT / "compiler/cost/constants.toml"
PRIOR_SPREAD = 0.25
PRIOR_WEIGHT = 0.3
"""Of a prior against one source that is off by KNEE."""
KNEE = 0.12
"""Error from which a row counts less."""
STEP = 0.02
LEAST = 1e-9

Path3 = tuple[str, ...]


@dataclass(frozen=True)
class Free:
    """A constant that may move."""

    path: Path3
    prior: float
    low: float
    high: float


def free_constants(tables: dict[str, Any]) -> list[Free]:
    found = []
    for section, groups in tables.items():
        nested = {(section,): groups} if section == "shared" else {(section, key): each for key, each in groups.items()}
        for path, entries in nested.items():
            for name, entry in entries.items():
                if isinstance(entry, dict) and "prior" in entry:
                    found.append(Free((*path, name), entry["prior"], max(entry["low"], LEAST), entry["high"]))
    return found


def value_at(tables: dict[str, Any], path: Path3) -> float:
    for key in path:
        tables = tables[key]
    return tables["value"]


def with_values(tables: dict[str, Any], free: Sequence[Free], values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    changed = deepcopy(tables)
    for each, value in zip(free, values, strict=True):
        entry = changed
        for key in each.path:
            entry = entry[key]
        entry["value"] = float(value)
    return changed


class Problem:
    """Published steps, priced under any constants."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.published = np.log([case.row.step_time_s for case in cases])
        rows = Counter(case.row.source for case in cases)
        self.weights = np.array([1 / rows[case.row.source] for case in cases])
        self.slow = [(case.work.machine.slow, case.work.machine.constants.network_share) for case in cases]

    def log_ratios(self, tables: dict[str, Any], only: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        known: dict[tuple[str | None, str], Any] = {}
        found = np.zeros(len(self.cases))
        for index in range(len(self.cases)) if only is None else only:
            case = self.cases[index]
            key = (case.architecture, case.work.machine.kind)
            if key not in known:
                known[key] = constants_from(tables, architecture=key[0], kind=key[1])
            link, share = self.slow[index]
            slow = Link(link.latency_s, link.bytes_per_s / share * known[key].network_share)
            case.work.reprice(replace(case.work.machine, constants=known[key], slow=slow))
            found[index] = math.log(case.step_s()) - self.published[index]
        return found


@dataclass(frozen=True)
class Linear:
    """Log ratios near some values of the free constants: `ratios + slopes · (at - here)`, in logarithms."""

    here: np.ndarray
    ratios: np.ndarray
    slopes: np.ndarray

    def at(self, values: np.ndarray) -> np.ndarray:
        return self.ratios + self.slopes @ (values - self.here)


@dataclass(frozen=True)
class Bounds:
    """Of the free constants, in logarithms."""

    priors: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, free: Sequence[Free]) -> Bounds:
        columns = ([each.prior for each in free], [each.low for each in free], [each.high for each in free])
        return cls(*(np.log(column) for column in columns))


PULL = PRIOR_WEIGHT * KNEE**2 / PRIOR_SPREAD**2


def loss(at: np.ndarray, ratios: np.ndarray, weights: np.ndarray, bounds: Bounds) -> float:
    robust = KNEE**2 * 2 * (np.sqrt(1 + (ratios / KNEE) ** 2) - 1)
    return float(weights @ robust + PULL * np.sum((at - bounds.priors) ** 2))


def solve(linear: Linear, weights: np.ndarray, bounds: Bounds) -> np.ndarray:
    """The best values of a linear problem, by reweighted least squares; those that would leave their bounds stay at them."""
    at = linear.here
    for _ in range(30):
        before, is_held = at, np.zeros(len(at), dtype=bool)
        while True:
            ratios = linear.at(at)
            row_weights = weights / np.sqrt(1 + (ratios / KNEE) ** 2)
            normal = linear.slopes.T @ (row_weights[:, None] * linear.slopes) + PULL * np.eye(len(at))
            right = -(linear.slopes.T @ (row_weights * ratios)) - PULL * (at - bounds.priors)
            free = np.flatnonzero(~is_held)
            trial = at.copy()
            trial[free] += np.linalg.solve(normal[np.ix_(free, free)], right[free])
            leaves = ((trial < bounds.low) | (trial > bounds.high)) & ~is_held
            at = np.where(leaves, np.clip(trial, bounds.low, bounds.high), at if leaves.any() else trial)
            is_held |= leaves
            if not leaves.any():
                break
        if np.abs(at - before).max() < 1e-5:
            break
    return at


def linear_at(problem: Problem, tables: dict[str, Any], free: Sequence[Free], at: np.ndarray) -> Linear:
    high = np.log([each.high for each in free])
    ratios = problem.log_ratios(with_values(tables, free, np.exp(at)))
    slopes = np.zeros((len(ratios), len(free)))
    for index in range(len(free)):
        moved = at.copy()
        step = STEP if at[index] + STEP <= high[index] else -STEP
        moved[index] += step
        slopes[:, index] = (problem.log_ratios(with_values(tables, free, np.exp(moved))) - ratios) / step
    return Linear(at, ratios, slopes)


def fit(
    problem: Problem, tables: dict[str, Any], free: Sequence[Free], *, start: np.ndarray, rounds: int
) -> np.ndarray:
    """Values of the free constants that suit all rows best."""
    bounds = Bounds.of(free)
    at = np.clip(np.log(start), bounds.low, bounds.high)
    for _ in range(rounds):
        linear = linear_at(problem, tables, free, at)
        best = loss(at, linear.ratios, problem.weights, bounds)
        move = np.clip(solve(linear, problem.weights, bounds) - at, -0.7, 0.7)
        for part in (1.0, 0.5, 0.2, 0.05):
            ratios = problem.log_ratios(with_values(tables, free, np.exp(at + part * move)))
            found = loss(at + part * move, ratios, problem.weights, bounds)
            if found < best:
                at = at + part * move
                break
        if best - found < 1e-4 * best:
            break
    return np.exp(at)


def write(values: dict[Path3, float]) -> None:
    """Rewrite `value` of fitted lines; everything else stays as it was written."""
    lines, section = [], ()
    for line in CONSTANTS.read_text(encoding="utf-8").splitlines():
        heading = re.match(r"\[([\w.]+)\]", line)
        if heading:
            section = tuple(heading[1].split("."))
        name = line.partition(" = ")[0]
        value = values.get((*section, name))
        lines.append(line if value is None else re.sub(r"value = [\d.e+-]+", f"value = {value:.3g}", line, count=1))
    CONSTANTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def summary(problem: Problem, ratios: np.ndarray, rows: np.ndarray) -> str:
    errors = np.abs(np.exp(ratios) - 1)
    sources = sorted({case.row.source for case, is_in in zip(problem.cases, rows, strict=True) if is_in})
    names = np.array([case.row.source for case in problem.cases])
    medians = [np.median(errors[names == source]) for source in sources]
    return f"mean over {len(sources)} sources of the median {np.mean(medians):.1%}, p90 of rows {np.quantile(errors[rows > 0], 0.9):.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    problem = Problem([case_of(row) for row in read_rows(ROWS) if row.step_time_s is not None])
    tables: dict[str, Any] = dict(table())
    free = free_constants(tables)
    now = np.array([max(value_at(tables, each.path), LEAST) for each in free])
    everything = np.ones(len(problem.cases))
    print("before:", summary(problem, problem.log_ratios(tables), everything))
    values = fit(problem, tables, free, start=now, rounds=options.rounds)
    ratios = problem.log_ratios(with_values(tables, free, values))
    print("after: ", summary(problem, ratios, everything))
    for each, value, old in zip(free, values, now, strict=True):
        edge = " at its bound" if value >= 0.999 * each.high or value <= 1.001 * each.low else ""
        print(f"  {'.'.join(each.path):42} {old:10.4g} -> {value:10.4g}   prior {each.prior:g}{edge}")
    if options.write:
        write({each.path: value for each, value in zip(free, values, strict=True)})
    if options.left_out:
        left_out(problem, tables, free, values)


def left_out(problem: Problem, tables: dict[str, Any], free: Sequence[Free], values: np.ndarray) -> None:
    """Each source, each publisher's model and each publisher, predicted by constants fitted without it; kept beside the rows.

    Fits without some of the rows are near the fit with all of them: the slopes there serve for all of them.
    """
    linear, bounds = linear_at(problem, tables, free, np.log(values)), Bounds.of(free)
    sources = [case.row.source for case in problem.cases]
    models = [f"{publisher(case.row.source)} {case.row.model}" for case in problem.cases]
    kept: dict[str, dict[str, float]] = {}
    for name, labels in (("source", sources), ("model", models), ("publisher", [publisher(each) for each in sources])):
        groups, ratios = np.array(labels), np.zeros(len(problem.cases))
        for group in sorted(set(labels)):
            at = solve(linear, problem.weights * (groups != group), bounds)
            only = np.flatnonzero(groups == group)
            ratios[only] = problem.log_ratios(with_values(tables, free, np.exp(at)), only)[only]
        print(f"without the {name}:", summary(problem, ratios, np.ones(len(ratios))))
        kept[name] = {
            case.row.id: round(float(np.exp(ratio) - 1), 4) for case, ratio in zip(problem.cases, ratios, strict=True)
        }
    path = ROOT / "compiler/backtest/left_out.json"
    path.write_text(json.dumps(kept, separators=(",", ":")).replace("},", "},\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
