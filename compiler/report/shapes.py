"""What charts are made of: shapes with finished coordinates, scales, and a frame that keeps labels inside.

A chart is data: Python computes every coordinate, templates/report/chart.svg.j2 writes them down. Coordinates are in the
units of the viewBox, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Anchor = Literal["start", "middle", "end"]
LINE = 15.0
"""Between two lines of labels."""
WIDTH = 860.0
"""Of every chart."""
CHARACTER = 6.6
"""Width of a character at the charts' 12 px, an upper estimate: labels are placed by it."""


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    style: str
    title: str = ""
    """What a pointer or a screen reader is told."""
    is_mark: bool = True
    """Whether it stands for a datum; frames and grids do not."""
    shape: str = field(default="rect", init=False)


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float
    style: str
    title: str = ""
    is_mark: bool = True
    shape: str = field(default="circle", init=False)


@dataclass(frozen=True)
class Line:
    """Through two points or more."""

    points: tuple[tuple[float, float], ...]
    style: str
    title: str = ""
    is_mark: bool = False
    shape: str = field(default="line", init=False)

    @property
    def path(self) -> str:
        return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in self.points)


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    style: str = "label"
    is_mark: bool = False
    title: str = ""
    shape: str = field(default="text", init=False)


Shape = Rect | Circle | Line | Text


@dataclass(frozen=True)
class Table:
    """The same figures for those who read rather than look."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    id: str
    title: str
    about: str
    """A sentence that says what is to be seen."""
    width: float
    height: float
    shapes: tuple[Shape, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """(style, words)"""
    table: Table | None = None
    kind: str = field(default="chart", init=False)

    @property
    def num_marks(self) -> int:
        return sum(shape.is_mark for shape in self.shapes)


def number(value: float) -> str:
    """Two decimals at most; a coordinate that is no number is a fault of ours."""
    if not math.isfinite(value):
        raise ValueError(f"a chart has a coordinate that is {value}")
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


@dataclass(frozen=True)
class Scale:
    """Data to coordinates, linear or in logarithms."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        value = math.log(value) if self.is_log else value
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        return _decades(self.low, self.high) if self.is_log else _round_steps(self.low, self.high, about)


def _round_steps(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about or 1.0
    size = 10 ** math.floor(math.log10(rough))
    step = min((factor * size for factor in (1, 2, 5, 10)), key=lambda each: abs(each - rough))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def axis_below(scale: Scale, y: float, *, top: float, text: Callable[[float], str], name: str) -> list[Shape]:
    """Grid lines, ticks and the name of a horizontal axis."""
    shapes: list[Shape] = [Line(((scale.start, y), (scale.end, y)), "axis")]
    for value in scale.ticks():
        x = scale(value)
        half = text_width(text(value)) / 2 + 2
        middle = min(max(x, half), WIDTH - half)  # the last label stays inside the frame
        shapes += [Line(((x, top), (x, y)), "grid"), Text(middle, y + 16, text(value), "middle", "tick")]
    return [*shapes, Text((scale.start + scale.end) / 2, y + 34, name, "middle", "axis-name")]


def axis_left(scale: Scale, x: float, *, right: float, text: Callable[[float], str], name: str) -> list[Shape]:
    shapes: list[Shape] = [Line(((x, scale.start), (x, scale.end)), "axis")]
    for value in scale.ticks():
        y = scale(value)
        shapes += [Line(((x, y), (right, y)), "grid"), Text(x - 6, y + 4, text(value), "end", "tick")]
    return [*shapes, Text(8, min(scale.start, scale.end) - 10, name, "start", "axis-name")]


def text_width(text: str) -> float:
    return CHARACTER * len(text)


def fitting(text: str, width: float) -> str:
    """The text, or as much as fits with an ellipsis, or nothing."""
    if text_width(text) <= width:
        return text
    room = int(width / CHARACTER) - 1
    return text[:room] + "…" if room >= 3 else ""


def widest(texts: Iterable[str]) -> float:
    return max((text_width(text) for text in texts), default=0.0)


STYLES = tuple(f"c{index}" for index in range(1, 9))


def apart(labels: Sequence[Text], *, low: float, high: float) -> list[Text]:
    """The same labels, moved up or down where two would lie on each other."""
    placed: list[Text] = []
    for label in sorted(labels, key=lambda each: each.y):
        tries = (label.y + LINE * step for step in (0, 1, -1, 2, -2, 3, -3, 4, -4))
        y = next(
            (y for y in tries if low <= y <= high and not any(_touches(label, y, other) for other in placed)), label.y
        )
        placed.append(replace(label, y=y))
    return placed


def _touches(label: Text, y: float, other: Text) -> bool:
    (left, right), (start, end) = _extent(label), _extent(other)
    return abs(y - other.y) < LINE and left < end and start < right


def _extent(label: Text) -> tuple[float, float]:
    width = text_width(label.text)
    left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return left, left + width


def styles_of(names: Sequence[str]) -> dict[str, str]:
    """A colour each, in order; the last is shared by what is left."""
    return {name: STYLES[min(index, len(STYLES) - 1)] for index, name in enumerate(names)}
