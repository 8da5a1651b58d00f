"""Measured ops: what a device made of a shape, over what the law says of it, on a coarse grid of shapes.

    seconds = law(shape) · ratio(shape)

`tables/*.json` come from the op measurements of the public `aiconfigurator-core` wheel (benchmarks/calibrate/serving_tables.py;
its table of held-out errors is in docs/backtest-serving.md). Between grid points the ratio is linear in the shape's logarithms;
beyond the grid the boundary's is held, and the figure is assumed. A device without a table borrows its family's.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

FAMILY = {"ampere": "a100-sxm-80g", "hopper": "h100-sxm-80g", "blackwell": "b200"}
"""Whose table stands for a device of the family that has none of its own."""
SAME_DIE = {"h100": "h100-sxm-80g", "a100": "a100-sxm-80g"}
"""Variants of one device, by the start of their names."""


class Ratio(NamedTuple):
    value: float
    is_inside: bool
    """Within the grid; beyond it the boundary's ratio is held."""


class Grid:
    """Values on a grid, linear in the logarithms of its axes."""

    def __init__(self, axes: tuple[tuple[float, ...], ...], values: tuple[float, ...]) -> None:
        self._axes = tuple(tuple(math.log(value) for value in axis) for axis in axes)
        self._values = values
        strides, stride = [], 1
        for axis in reversed(axes):
            strides.append(stride)
            stride *= len(axis)
        assert stride == len(values)
        self._strides = tuple(reversed(strides))
        self._known: dict[tuple[float, ...], Ratio] = {}

    def at(self, *shape: float) -> Ratio:
        """The value at a point, with the point moved to the grid's edge where it lies beyond."""
        found = self._known.get(shape)
        if found is None:
            found = self._known[shape] = self._interpolated(shape)
        return found

    def _interpolated(self, shape: tuple[float, ...]) -> Ratio:
        corners, is_inside = [(0, 1.0)], True
        for size, axis, stride in zip(shape, self._axes, self._strides, strict=True):
            place = math.log(size)
            is_inside = is_inside and axis[0] - 1e-9 <= place <= axis[-1] + 1e-9
            place = min(max(place, axis[0]), axis[-1])
            low = min(bisect_right(axis, place), len(axis) - 1) - 1 if len(axis) > 1 else 0
            share = (place - axis[low]) / (axis[low + 1] - axis[low]) if len(axis) > 1 else 0.0
            base = low * stride
            if share <= 0:
                corners = [(offset + base, weight) for offset, weight in corners]
            else:
                corners = [
                    pair
                    for offset, weight in corners
                    for pair in ((offset + base, weight * (1 - share)), (offset + base + stride, weight * share))
                ]
        return Ratio(sum(weight * self._values[offset] for offset, weight in corners), is_inside)


@dataclass(frozen=True)
class OpTable:
    """One op on one device in one format."""

    law: tuple[float, ...]
    """Constants that the ratios are relative to."""
    grid: Grid
    is_own: bool
    """Measured on this device, and not borrowed from one of its family."""


@cache
def _file(op: str) -> dict[str, Any]:
    return json.loads(files("llmc.compiler.cost").joinpath("tables", f"{op}.json").read_text(encoding="utf-8"))


def _device_with(tables: dict[str, Any], device: str, architecture: str) -> tuple[str | None, bool]:
    if device in tables:
        return device, True
    for start, name in SAME_DIE.items():
        if device.startswith(start) and name in tables and "pcie" not in device:
            return name, True
    borrowed = FAMILY.get(architecture)
    return (borrowed, False) if borrowed in tables else (None, False)


@cache
def op_table(op: str, *, device: str, architecture: str, label: str = "bf16") -> OpTable | None:
    """The table of an op, or None where the law is all there is."""
    name, is_own = _device_with(_file(op), device, architecture)
    found = _file(op)[name].get(label) if name is not None else None
    if found is None:
        return None
    axes = tuple(tuple(float(value) for value in axis) for axis in found["axes"].values())
    return OpTable(tuple(found["law"]), Grid(axes, tuple(found["ratios"])), is_own)


@cache
def _reductions(device: str, architecture: str) -> dict[int, tuple[tuple[float, float], ...]] | None:
    name, _ = _device_with(_file("all_reduce"), device, architecture)
    if name is None:
        return None
    tables = _file("all_reduce")[name]["microseconds"]
    return {
        int(ranks): tuple((math.log(size), math.log(1e-6 * micros)) for size, micros in pairs)
        for ranks, pairs in tables.items()
    }


def measured_all_reduce_s(size_bytes: float, *, ranks: int, device: str, architecture: str) -> float | None:
    """Seconds of an all-reduce inside a node, in a captured graph; None where it was not measured.

    Numbers of ranks between the measured ones go by the next larger; beyond the largest message by its bandwidth.
    """
    tables = _reductions(device, architecture)
    measured = min((each for each in tables if each >= ranks), default=None) if tables is not None else None
    if tables is None or measured is None:
        return None
    pairs, place = tables[measured], math.log(max(size_bytes, 1.0))
    if place <= pairs[0][0]:
        return math.exp(pairs[0][1])
    if place >= pairs[-1][0]:
        return math.exp(pairs[-1][1] + place - pairs[-1][0])
    high = bisect_right(pairs, (place, math.inf))
    (x0, y0), (x1, y1) = pairs[high - 1], pairs[high]
    return math.exp(y0 + (y1 - y0) * (place - x0) / (x1 - x0))
