"""The front of what can be had: layouts as dots, time against memory, or time per token against throughput."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .shapes import WIDTH, Chart, Circle, Line, Scale, Table, Text, apart, axis_below, axis_left, text_width

HEIGHT = 420.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 836.0, 40.0, 360.0
MAX_DOTS = 600


@dataclass(frozen=True)
class Dot:
    """A layout with its two figures; of both the smaller is better unless the axis says otherwise."""

    x: float
    y: float
    name: str
    style: str = "other"
    """chosen, runner-up, other, refused"""
    label: str = ""


@dataclass(frozen=True)
class Axis:
    name: str
    text: Callable[[float], str]
    """As a table shows a value."""
    tick: Callable[[float], str]
    is_more_better: bool = False


def front(dots: Sequence[Dot], *, is_y_more: bool) -> list[Dot]:
    """Those that no other beats in both, by rising x. x: less is better."""
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda each: (each.x, -each.y if is_y_more else each.y)):
        if not best or (dot.y > best[-1].y if is_y_more else dot.y < best[-1].y):
            best.append(dot)
    return best


def pareto(
    id: str,
    title: str,
    about: str,
    dots: Sequence[Dot],
    *,
    x: Axis,
    y: Axis,
    limit: tuple[str, float] | None = None,
) -> Chart:
    """Dots, the line of the front, and what is chosen; `limit` is a line across. Of very many dots the best in x are drawn."""
    possible = [dot for dot in dots if dot.style != "refused"]
    edge = front(possible or dots, is_y_more=y.is_more_better)
    shown = _most_telling(dots, edge)
    low, high = min(dot.x for dot in shown), max(dot.x for dot in shown)
    pad = 0.04 * (high - low) or 0.1 * high
    across = Scale(max(0.0, low - pad), high + pad, LEFT, RIGHT)
    heights = [dot.y for dot in shown] + ([limit[1]] if limit else [])
    margin = 0.08 * (max(heights) - min(heights)) or 0.1 * max(heights)
    up = Scale(max(0.0, min(heights) - margin), max(heights) + margin, BOTTOM, TOP)
    shapes = axis_below(across, BOTTOM, top=TOP, text=x.tick, name=x.name)
    shapes += axis_left(up, LEFT, right=RIGHT, text=y.tick, name=y.name)
    if limit is not None:
        height = up(limit[1])
        shapes += [
            Line(((LEFT, height), (RIGHT, height)), "limit", limit[0]),
            Text(RIGHT, height - 5, limit[0], "end", "tick"),
        ]
    if len(edge) > 1:
        shapes.append(Line(tuple((across(dot.x), up(dot.y)) for dot in edge), "front", "the front"))
    order = {"refused": 0, "other": 1, "runner-up": 2, "chosen": 3}
    shown = sorted(shown, key=lambda each: order[each.style])
    shapes += [_dot(dot, across, up, x, y) for dot in shown]
    shapes += apart([_label(dot, across, up) for dot in shown if dot.label], low=TOP + 10, high=BOTTOM - 4)
    kinds = [style for style in reversed(order) if any(dot.style == style for dot in shown)]
    words = {"chosen": "chosen", "runner-up": "runner-up", "other": "other layouts", "refused": "misses the objective"}
    legend = (*((f"dot-{kind}", words[kind]) for kind in kinds), ("front", "nothing is better in both"))
    if len(shown) < len(dots):
        about += f" {len(shown):,} of {len(dots):,} are drawn."
    rows = tuple((dot.name, x.text(dot.x), y.text(dot.y)) for dot in edge)
    return Chart(id, title, about, WIDTH, HEIGHT, tuple(shapes), legend, Table(("on the front", x.name, y.name), rows))


def _most_telling(dots: Sequence[Dot], edge: Sequence[Dot]) -> list[Dot]:
    if len(dots) <= MAX_DOTS:
        return list(dots)
    told = {id(dot) for dot in edge} | {id(dot) for dot in dots if dot.style in ("chosen", "runner-up")}
    kept = [dot for dot in dots if id(dot) in told]
    others = sorted((dot for dot in dots if id(dot) not in told), key=lambda dot: dot.x)
    return [*kept, *others[: MAX_DOTS - len(kept)]]


def _dot(dot: Dot, across: Scale, up: Scale, x: Axis, y: Axis) -> Circle:
    radius = 7.0 if dot.style == "chosen" else 5.0 if dot.style == "runner-up" else 3.0
    title = f"{dot.name}: {x.text(dot.x)}, {y.text(dot.y)}"
    return Circle(across(dot.x), up(dot.y), radius, f"dot-{dot.style}", title)


def _label(dot: Dot, across: Scale, up: Scale) -> Text:
    x, y = across(dot.x), up(dot.y) + 4
    if x + 10 + text_width(dot.label) > RIGHT:
        return Text(x - 10, y, dot.label, "end", "value")
    return Text(x + 10, y, dot.label, "start", "value")
