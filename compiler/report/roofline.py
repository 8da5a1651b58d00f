"""The roofline of one device: what each class of ops reaches of what memory and matrix units allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .shapes import (
    WIDTH,
    Chart,
    Circle,
    Line,
    Scale,
    Shape,
    Table,
    Text,
    apart,
    axis_below,
    axis_left,
    styles_of,
    text_width,
)

HEIGHT = 420.0
LEFT, RIGHT, TOP, BOTTOM = 80.0, 836.0, 40.0, 360.0
TERA = 1e12


@dataclass(frozen=True)
class Work:
    """A class of ops: what it does and how long it takes."""

    name: str
    flops: float
    moved_bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.moved_bytes

    @property
    def rate(self) -> float:
        return self.flops / self.seconds


@dataclass(frozen=True)
class Roof:
    name: str
    flops_per_s: float


def roofline(
    id: str, title: str, about: str, works: Sequence[Work], *, roofs: Sequence[Roof], bytes_per_s: float
) -> Chart:
    """A dot a class under the roofs, both axes in logarithms. Classes without FLOPs are in the table alone."""
    drawn = [work for work in works if work.flops > 0 and work.moved_bytes > 0 and work.seconds > 0]
    ridge = max(roof.flops_per_s for roof in roofs) / bytes_per_s
    low = min([work.intensity for work in drawn] + [1.0]) / 2
    high = max([work.intensity for work in drawn] + [ridge]) * 4
    across = Scale(low, high, LEFT, RIGHT, is_log=True)
    top = max(roof.flops_per_s for roof in roofs) / TERA
    bottom = min([work.rate / TERA for work in drawn] + [low * bytes_per_s / TERA]) / 2
    up = Scale(bottom, top * 2, BOTTOM, TOP, is_log=True)
    shapes = axis_below(across, BOTTOM, top=TOP, text=_plain, name="FLOPs a byte moved")
    shapes += axis_left(up, LEFT, right=RIGHT, text=_plain, name="TFLOP/s a device")
    for roof in roofs:
        shapes += _roof(roof, across, up, bytes_per_s)
    styles = styles_of([work.name for work in drawn])
    shapes += [_dot(work, styles[work.name], across, up, roofs[0], bytes_per_s) for work in drawn]
    labels = [_label(work, across, up, roofs[0], bytes_per_s) for work in drawn]
    shapes += apart(labels, low=TOP + 10, high=BOTTOM - 4)
    rows = tuple(_row(work, roofs[0], bytes_per_s) for work in works)
    head = ("", "GFLOP", "MB moved", "FLOPs a byte", "TFLOP/s", "of the roof")
    legend = tuple((styles[work.name], work.name) for work in drawn)
    return Chart(id, title, about, WIDTH, HEIGHT, tuple(shapes), legend, Table(head, rows))


def allowed(work: Work, roof: Roof, bytes_per_s: float) -> float:
    """FLOP/s that the roof admits at a class's intensity."""
    return min(roof.flops_per_s, work.intensity * bytes_per_s)


def _roof(roof: Roof, across: Scale, up: Scale, bytes_per_s: float) -> list[Shape]:
    ridge = roof.flops_per_s / bytes_per_s
    start = max(across.low, up.low * TERA / bytes_per_s)
    points = [(start, start * bytes_per_s), (ridge, roof.flops_per_s), (across.high, roof.flops_per_s)]
    line = Line(tuple((across(x), up(y / TERA)) for x, y in points), "roof", roof.name)
    return [line, Text(RIGHT - 4, up(roof.flops_per_s / TERA) - 6, roof.name, "end", "tick")]


def _dot(work: Work, style: str, across: Scale, up: Scale, roof: Roof, bytes_per_s: float) -> Circle:
    share = work.rate / allowed(work, roof, bytes_per_s)
    title = (
        f"{work.name}: {_plain(work.intensity)} FLOPs a byte, {work.rate / TERA:.3g} TFLOP/s, {share:.0%} of the roof"
    )
    return Circle(across(work.intensity), up(work.rate / TERA), 6.0, style, title)


def _label(work: Work, across: Scale, up: Scale, roof: Roof, bytes_per_s: float) -> Text:
    x, y = across(work.intensity), up(work.rate / TERA) + 4
    text = f"{work.name} {work.rate / allowed(work, roof, bytes_per_s):.0%}"
    if x + 10 + text_width(text) > RIGHT:
        return Text(x - 10, y, text, "end", "value")
    return Text(x + 10, y, text, "start", "value")


def _row(work: Work, roof: Roof, bytes_per_s: float) -> tuple[str, ...]:
    flops, moved = f"{work.flops / 1e9:,.3g}", f"{work.moved_bytes / 1e6:,.3g}"
    if work.flops == 0 or work.moved_bytes == 0 or work.seconds == 0:
        return (work.name, flops, moved, "", "", "")
    share = work.rate / allowed(work, roof, bytes_per_s)
    return (work.name, flops, moved, f"{work.intensity:,.3g}", f"{work.rate / TERA:,.3g}", f"{share:.0%}")


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:.3g}"
