"""Small utilisation tables from the op measurements of the public `aiconfigurator-core` wheel (Apache-2.0).

    pip install --no-deps --target FOLDER aiconfigurator-core      # anywhere outside this repository
    python benchmarks/calibrate/serving_tables.py FOLDER           # held-out error of every table
    python benchmarks/calibrate/serving_tables.py FOLDER --write   # and write compiler/cost/tables/

A table holds measured / law on a coarse grid of shapes, the law fitted to all points of its op; between grid points the ratio is
interpolated in log-shape space (compiler/cost/op_tables.py). Errors are those of a table made of one half of the shapes, over the
other half. Runs with any interpreter that has this package, numpy and pyarrow; without the wheel it says so and does nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmc.compiler.cost.op_tables import Grid
from llmc.spec import catalog

TABLES = Path(__file__).parents[2] / "compiler/cost/tables"
DEVICES = {
    "a100-sxm-80g": "a100_sxm",
    "h100-sxm-80g": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "l40s": "l40s",
}
"""Catalog name -> the wheel's."""
PRODUCT_ENGINE, ATTENTION_ENGINE = "trtllm", "vllm"
"""Whose kernels. Products of the other one predict serving no better; its decode attention switches kernels by shape, which no
small grid follows (12 % held out)."""
FORMATS = {"bfloat16": "bf16", "fp8": "fp8", "nvfp4": "nvfp4"}
WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "nvfp4": 0.5625}

ROWS = (1, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
WIDTHS = (128, 512, 1024, 2048, 4096, 8192, 16384, 65536)
DEPTHS = (128, 512, 1024, 2048, 4096, 8192, 16384)
TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SEQUENCE_HEADS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
HEAD_SIZES = (64, 128)
KEYS = (2, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SEQUENCE_KV_HEADS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096)
QUERIES = (1, 4, 8, 16)

NEAR = 0.02
"""Closer than this, in logarithms, nothing is gained by coming closer still."""
KEEP = 3.0
"""Weight of a grid point's own measurement, beside 1 / NEAR for each shape that lies exactly there."""

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Op:
    """A kind of measurement: how to read it, its law and its grid."""

    name: str
    file: str
    axes: tuple[str, ...]
    grid: tuple[Sequence[int], ...]
    prior: tuple[float, ...]
    law: Callable[[Columns, Sequence[float], dict[str, float]], np.ndarray]
    """Seconds of all points, from the constants and the device's figures."""


def product_s(at: Columns, law: Sequence[float], device: dict[str, float]) -> np.ndarray:
    work = 2.0 * at["m"] * at["n"] * at["k"]
    moved = at["n"] * at["k"] * device["weight_bytes"] + 2.0 * at["m"] * (at["n"] + at["k"])
    compute, memory = work / (device["peak"] * law[1]), moved / (device["bandwidth"] * law[2])
    return law[0] + np.cbrt(compute**3 + memory**3)


def prefill_s(at: Columns, law: Sequence[float], device: dict[str, float]) -> np.ndarray:
    work = 2.0 * at["sequence_heads"] * at["tokens"] ** 2 * at["head_size"]
    return law[0] + work * (at["tokens"] + law[2]) / (at["tokens"] * device["peak"] * law[1])


def decode_s(at: Columns, law: Sequence[float], device: dict[str, float]) -> np.ndarray:
    moved = 4.0 * at["sequence_kv_heads"] * at["keys"] * at["head_size"]
    return law[0] + moved / (device["bandwidth"] * law[1])


PRODUCTS = Op("products", "gemm/{}/*/gemm_perf", ("m", "n", "k"), (ROWS, WIDTHS, DEPTHS), (4e-6, 0.7, 0.8), product_s)
PREFILL = Op(
    "prefill_attention",
    "attention/{}/*/context_attention_perf",
    ("tokens", "sequence_heads", "head_size"),
    (TOKENS, SEQUENCE_HEADS, HEAD_SIZES),
    (10e-6, 0.5, 1000.0),
    prefill_s,
)
DECODE = Op(
    "decode_attention",
    "attention/{}/*/generation_attention_perf",
    ("keys", "sequence_kv_heads", "queries", "head_size"),
    (KEYS, SEQUENCE_KV_HEADS, QUERIES, HEAD_SIZES),
    (10e-6, 0.8),
    decode_s,
)


def newest(data: Path, pattern: str) -> Path | None:
    files = data.glob(f"{pattern}.parquet")
    return max(files, key=lambda file: [int(part) for part in re.findall(r"\d+", file.parent.name)], default=None)


def read(file: Path) -> Columns:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def points(op: Op, columns: Columns, label: str) -> tuple[Columns, np.ndarray]:
    """The op's axes and its seconds, one point a shape (the median where a shape was measured more than once)."""
    if op is PRODUCTS:
        keep = columns["gemm_dtype"] == label
        at = {name: columns[name].astype(float) for name in op.axes}
    else:
        keep = np.isin(columns["head_dim"], HEAD_SIZES)
        keep &= columns.get("window_size", np.zeros(len(keep))) == 0
        keep &= (columns["attn_dtype"] == "bfloat16") & (columns["kv_cache_dtype"] == "bfloat16")
        batch, heads = columns["batch_size"].astype(float), columns["num_heads"].astype(float)
        kv_heads = columns["num_key_value_heads"].astype(float)
        at = {"head_size": columns["head_dim"].astype(float)}
        if op is PREFILL:
            at |= {"tokens": columns["isl"].astype(float), "sequence_heads": batch * heads}
            keep &= columns["isl"] > 1
        else:
            at |= {"keys": columns["step"] + 1.0, "sequence_kv_heads": batch * kv_heads, "queries": heads / kv_heads}
    shapes: dict[tuple[float, ...], list[float]] = {}
    for index in np.flatnonzero(keep):
        shapes.setdefault(tuple(at[name][index] for name in op.axes), []).append(columns["latency"][index] * 1e-3)
    values = np.array(list(shapes))
    return {name: values[:, place] for place, name in enumerate(op.axes)}, np.array(
        [np.median(s) for s in shapes.values()]
    )


def fit(op: Op, at: Columns, seconds: np.ndarray, device: dict[str, float]) -> list[float]:
    """Robust least squares on log ratios: Gauss-Newton in the constants' logarithms."""
    law = np.log(op.prior)
    damping, knee = 1e-2, 0.1

    def residuals(law: np.ndarray) -> np.ndarray:
        return np.log(op.law(at, np.exp(law), device) / seconds)

    def loss(ratios: np.ndarray) -> float:
        return float(np.sum(np.sqrt(1 + (ratios / knee) ** 2) - 1))

    ratios = residuals(law)
    for _ in range(60):
        slopes = np.stack([(residuals(law + 1e-4 * one) - ratios) / 1e-4 for one in np.eye(len(law))], axis=1)
        weights = 1 / np.sqrt(1 + (ratios / knee) ** 2)
        normal = slopes.T @ (weights[:, None] * slopes)
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -slopes.T @ (weights * ratios))
        trial = law + np.clip(move, -0.5, 0.5)
        tried = residuals(trial)
        if loss(tried) < loss(ratios):
            law, ratios, damping = trial, tried, damping / 3
        else:
            damping *= 5
        if damping > 1e6:
            break
    return [float(f"{value:.4g}") for value in np.exp(law)]


def filled(op: Op, at: Columns, ratios: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """The grid's axes and, for each of its points, what was measured there or at its nearest neighbour along the first axis
    that has one."""
    known = dict(zip(zip(*(at[name] for name in op.axes), strict=True), ratios, strict=True))
    axes = [[value for value in axis if np.any(at[name] == value)] for name, axis in zip(op.axes, op.grid, strict=True)]
    cells = np.array([known.get(shape, np.nan) for shape in itertools.product(*axes)])
    cells = cells.reshape([len(axis) for axis in axes])
    for place in range(cells.ndim):
        cells = np.moveaxis(cells, place, 0)
        for order in (range(1, len(cells)), range(len(cells) - 2, -1, -1)):
            for index in order:
                beside = cells[index - 1] if order.step == 1 else cells[index + 1]
                cells[index] = np.where(np.isnan(cells[index]), beside, cells[index])
        cells = np.moveaxis(cells, 0, place)
    return axes, cells.ravel()


def corners(axes: Sequence[Sequence[int]], columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The grid points around each shape and their weights, both [N, corners]: those of `op_tables.Grid`."""
    around, weights = np.zeros((len(columns[0]), 1), dtype=int), np.ones((len(columns[0]), 1))
    for axis, column in zip(axes, columns, strict=True):
        if len(axis) == 1:
            continue
        places = np.log(np.array(axis, dtype=float))
        place = np.clip(np.log(column), places[0], places[-1])
        low = np.clip(np.searchsorted(places, place, side="right") - 1, 0, len(places) - 2)
        share = ((place - places[low]) / (places[low + 1] - places[low]))[:, None]
        below = around * len(axis) + low[:, None]
        around, weights = np.hstack([below, below + 1]), np.hstack([weights * (1 - share), weights * share])
    return around, weights


def tabulate(op: Op, at: Columns, ratios: np.ndarray) -> dict[str, Any]:
    """The grid's ratios: those whose interpolation is nearest to all points, in least absolute logarithms.

    A single measurement carries noise, and kernels change from shape to shape; a grid point that stands for its surroundings
    predicts them better than what was measured at it alone. KEEP holds points with few measurements around them to their own.
    """
    axes, start = filled(op, at, ratios)
    around, weights = corners(axes, [at[name] for name in op.axes])
    own, wanted = np.log(start), np.log(ratios)
    values = own.copy()
    for _ in range(15):  # least squares, reweighted towards absolute differences
        pull = 1 / np.maximum(np.abs(wanted - (weights * values[around]).sum(axis=1)), NEAR)
        normal, right = KEEP * np.eye(len(own)), KEEP * own
        for first in range(around.shape[1]):
            np.add.at(right, around[:, first], pull * weights[:, first] * wanted)
            for second in range(around.shape[1]):
                both = pull * weights[:, first] * weights[:, second]
                np.add.at(normal, (around[:, first], around[:, second]), both)
        values = np.linalg.solve(normal, right)
    return {"axes": dict(zip(op.axes, axes, strict=True)), "ratios": [round(float(r), 3) for r in np.exp(values)]}


def held_out(op: Op, at: Columns, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of law and of a table made of one half of the shapes, over the other half."""
    seen = np.random.default_rng(0).random(len(ratios)) < 0.5
    table = tabulate(op, {name: column[seen] for name, column in at.items()}, ratios[seen])
    grid = Grid(tuple(tuple(axis) for axis in table["axes"].values()), tuple(table["ratios"]))
    columns = [at[name][~seen] for name in op.axes]
    predicted = np.array([grid.at(*shape).value for shape in zip(*columns, strict=True)])
    return np.abs(1 / ratios[~seen] - 1), np.abs(predicted / ratios[~seen] - 1)


def all_reduces(data: Path, system: str) -> dict[str, Any] | None:
    file = newest(data / system, f"comm/{PRODUCT_ENGINE}/*/custom_allreduce_perf")
    if file is None:
        return None
    columns = read(file)
    found: dict[str, list[list[float]]] = {}
    for ranks in sorted(set(columns["num_gpus"])):
        keep = columns["num_gpus"] == ranks
        pairs = sorted(zip(columns["message_size"][keep].tolist(), columns["latency"][keep].tolist(), strict=True))
        found[str(ranks)] = [[size, round(1e3 * latency, 2)] for size, latency in pairs]
    return {"version": file.parent.name, "microseconds": found}


def device_figures(name: str, label: str) -> dict[str, float] | None:
    entry = catalog.accelerator(name)
    peak = entry["peak_tflops"].get({"nvfp4": "fp4"}.get(label, label))
    if peak is None:
        return None
    return {
        "peak": peak * 1e12,
        "bandwidth": entry["memory_gb_s"] * 1e9,
        "weight_bytes": WEIGHT_BYTES[label],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where aiconfigurator-core is installed")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data = options.folder / "aiconfigurator_core/systems/data" if options.folder else None
    if data is None or not data.is_dir():
        print("skipped: aiconfigurator-core is not installed in the folder given (or none is)")
        return
    print("| op | device | format | points | in the table | law, median | held out: median | p90 |")
    print("|---|---|---|---|---|---|---|---|")
    tables: dict[str, dict[str, Any]] = {op.name: {} for op in (PRODUCTS, PREFILL, DECODE)}
    reductions: dict[str, Any] = {}
    for name, system in DEVICES.items():
        for op in (PRODUCTS, PREFILL, DECODE):
            file = newest(data / system, op.file.format(PRODUCT_ENGINE if op is PRODUCTS else ATTENTION_ENGINE))
            if file is None:
                continue
            columns = read(file)
            labels = [label for label in FORMATS if op is not PRODUCTS or label in set(columns["gemm_dtype"])]
            for label in labels if op is PRODUCTS else labels[:1]:
                figures = device_figures(name, FORMATS[label])
                if figures is None:
                    continue
                at, seconds = points(op, columns, label)
                law = fit(op, at, seconds, figures)
                ratios = seconds / op.law(at, law, figures)
                table = tabulate(op, at, ratios)
                by_law, by_table = held_out(op, at, ratios)
                tables[op.name].setdefault(name, {})[FORMATS[label]] = {
                    "version": file.parent.name,
                    "law": law,
                    **table,
                }
                cells = len(table["ratios"])
                print(
                    f"| {op.name} | {name} | {FORMATS[label]} | {len(seconds)} | {cells} | {np.median(by_law):.1%}"
                    f" | {np.median(by_table):.1%} | {np.quantile(by_table, 0.9):.1%} |",
                    flush=True,
                )
        found = all_reduces(data, system)
        if found is not None:
            reductions[name] = found
    if options.write:
        for op_name, found in (*tables.items(), ("all_reduce", reductions)):
            text = json.dumps(found, separators=(",", ":")).replace('"ratios"', '\n"ratios"').replace('},"', '},\n"')
            (TABLES / f"{op_name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
