"""Bars: stacked by class (memory), and one a class (time)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .shapes import (
    WIDTH,
    Chart,
    Line,
    Rect,
    Scale,
    Shape,
    Table,
    Text,
    axis_below,
    fitting,
    styles_of,
    text_width,
    widest,
)

BAR, GAP, TOP = 26.0, 12.0, 24.0


@dataclass(frozen=True)
class Stack:
    """One bar: what it is for, and its parts."""

    name: str
    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        return sum(value for _, value in self.parts)


def stacked(
    id: str,
    title: str,
    about: str,
    stacks: Sequence[Stack],
    *,
    axis: str,
    text: Callable[[float], str],
    tick: Callable[[float], str],
    limit: tuple[str, float] | None = None,
) -> Chart:
    """Parts of each stack side by side, with the total behind it; `limit` is a line that bars should not cross."""
    names = list(dict.fromkeys(name for stack in stacks for name, _ in stack.parts))
    styles = styles_of(names)
    left = widest(stack.name for stack in stacks) + 16
    right = WIDTH - widest(text(stack.total) for stack in stacks) - 16
    high = max([stack.total for stack in stacks] + ([limit[1]] if limit else [])) * 1.02 or 1.0
    scale, bottom = Scale(0.0, high, left, right), TOP + len(stacks) * (BAR + GAP)
    shapes = axis_below(scale, bottom, top=TOP - 6, text=tick, name=axis)
    for row, stack in enumerate(stacks):
        y = TOP + row * (BAR + GAP)
        shapes.append(Text(left - 8, y + BAR / 2 + 4, stack.name, "end"))
        shapes += _parts(stack, scale, y, styles, text)
        shapes.append(Text(scale(stack.total) + 6, y + BAR / 2 + 4, text(stack.total), "start", "value"))
    if limit is not None:
        x = scale(limit[1])
        shapes.append(Line(((x, TOP - 8), (x, bottom)), "limit", limit[0]))
        shapes.append(Text(x - 4, TOP - 10, limit[0], "end", "tick"))
    rows = tuple(
        (stack.name, *(text(dict(stack.parts).get(name, 0.0)) for name in names), text(stack.total)) for stack in stacks
    )
    table = Table(("", *names, "in all"), rows)
    legend = tuple((styles[name], name) for name in names)
    return Chart(id, title, about, WIDTH, bottom + 44, tuple(shapes), legend, table)


def _parts(stack: Stack, scale: Scale, y: float, styles: dict[str, str], text: Callable[[float], str]) -> list[Shape]:
    shapes: list[Shape] = []
    before = 0.0
    for name, value in stack.parts:
        x, end = scale(before), scale(before + value)
        before += value
        shapes.append(Rect(x, y, end - x, BAR, styles[name], f"{stack.name}: {name} {text(value)}"))
        label = fitting(text(value), end - x - 8)
        if label and "…" not in label:
            shapes.append(Text((x + end) / 2, y + BAR / 2 + 4, label, "middle", "inside"))
    return shapes


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    note: str = ""
    """A word behind the figure: where it comes from."""
    low: float | None = None
    high: float | None = None


def single(
    id: str,
    title: str,
    about: str,
    bars: Sequence[Bar],
    *,
    axis: str,
    text: Callable[[float], str],
    tick: Callable[[float], str],
    legend: Sequence[tuple[str, str]] = (),
    style_of: Callable[[Bar], str] = lambda _: "c1",
) -> Chart:
    """A bar a row, with its figure and note behind it, and a whisker where it has an interval."""
    labels = [f"{text(bar.value)}{'  ' + bar.note if bar.note else ''}" for bar in bars]
    left, right = widest(bar.name for bar in bars) + 16, WIDTH - widest(labels) - 20
    high = max(bar.high or bar.value for bar in bars) or 1.0
    scale, step = Scale(0.0, high, left, right), BAR - 4 + 8
    bottom = TOP + len(bars) * step
    shapes = axis_below(scale, bottom, top=TOP - 6, text=tick, name=axis)
    for row, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        y = TOP + row * step
        middle = y + (BAR - 4) / 2
        title_text = f"{bar.name}: {label}"
        shapes.append(Text(left - 8, middle + 4, bar.name, "end"))
        shapes.append(Rect(left, y, scale(bar.value) - left, BAR - 4, style_of(bar), title_text))
        end = bar.value
        if bar.low is not None and bar.high is not None:
            shapes.append(
                Line(
                    ((scale(bar.low), middle), (scale(bar.high), middle)),
                    "whisker",
                    f"{text(bar.low)} to {text(bar.high)}",
                )
            )
            end = bar.high
        shapes.append(Text(min(scale(end) + 6, WIDTH - text_width(label) - 2), middle + 4, label, "start", "value"))
    rows = tuple((bar.name, text(bar.value), bar.note) for bar in bars)
    return Chart(id, title, about, WIDTH, bottom + 44, tuple(shapes), tuple(legend), Table(("", "", ""), rows))
