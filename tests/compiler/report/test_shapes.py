"""Scales, ticks and labels."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.compiler.report.pareto import Dot, front
from llmc.compiler.report.shapes import LINE, Scale, Text, apart, fitting, number, text_width


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_coordinate_that_is_no_number_is_refused(value: float):
    with pytest.raises(ValueError, match="coordinate"):
        number(value)


def test_coordinates_are_short():
    assert [number(value) for value in (1.0, 0.5, 1 / 3, 0.0, 100.0, 1e-9)] == ["1", "0.5", "0.33", "0", "100", "0"]


@given(st.floats(0, 1e12), st.floats(1e-6, 1e12))
def test_ticks_lie_on_the_axis(low: float, size: float):
    scale = Scale(low, low + size, 0.0, 800.0)
    ticks = scale.ticks()
    assert len(ticks) <= 12
    assert all(-1e-3 <= scale(tick) <= 800 + 1e-3 for tick in ticks)


def test_ticks_are_round():
    assert Scale(0.0, 7.9, 0.0, 1.0).ticks() == [0.0, 2.0, 4.0, 6.0]
    assert Scale(0.3, 2000.0, 0.0, 1.0, is_log=True).ticks() == [1.0, 10.0, 100.0, 1000.0]


def test_a_logarithm_puts_equal_ratios_equally_far_apart():
    scale = Scale(1.0, 10_000.0, 0.0, 400.0, is_log=True)
    assert [scale(value) for value in (1, 10, 100, 1000, 10_000)] == pytest.approx([0, 100, 200, 300, 400])


@given(st.text(max_size=40), st.floats(0, 300))
def test_a_text_that_was_cut_fits(text: str, width: float):
    assert text_width(fitting(text, width)) <= max(width, 0.0)


def test_labels_on_one_spot_are_moved_apart():
    labels = [Text(100.0, 50.0, name) for name in ("chosen", "1", "2")]
    moved = apart(labels, low=10.0, high=300.0)
    heights = sorted(label.y for label in moved)
    assert all(other - one >= LINE for one, other in pairwise(heights))
    assert {label.text for label in moved} == {"chosen", "1", "2"}


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=30), st.booleans())
def test_nothing_beats_the_front(points: list[tuple[float, float]], is_y_more: bool):
    dots = [Dot(x, y, "a layout") for x, y in points]
    edge = front(dots, is_y_more=is_y_more)
    sign = -1 if is_y_more else 1
    for dot in dots:
        assert any(best.x <= dot.x and sign * best.y <= sign * dot.y for best in edge)
    for best in edge:
        assert not any(dot.x < best.x and sign * dot.y < sign * best.y for dot in dots)
