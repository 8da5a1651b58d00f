"""Figures of merit on a few pairs, by hand; and that the committed rows are predicted as well as the docs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler.backtest.backtest import backtest, summary
from llmc.compiler.backtest.score import Pair, by_source, ordering, quantile

ROWS = Path(__file__).parents[3] / "benchmarks/measurements/train.csv"


def test_quantiles_lie_between_order_statistics():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 1.0], 0.9) == pytest.approx(0.9)


def test_a_source_counts_once_however_many_rows_it_has():
    pairs = [Pair("long", 1.0, 1.1)] * 9 + [Pair("short", 1.0, 1.3)]
    figures = summary(pairs)
    assert figures.mean_of_medians == pytest.approx(0.2)
    assert figures.bias == pytest.approx(0.1)
    assert [score.rows for score in by_source(pairs)] == [9, 1]


def test_ordering_counts_pairs_of_different_layouts_only():
    fast, slow = Pair("s", 1.0, 1.2, "q", "a"), Pair("s", 2.0, 1.5, "q", "b")
    assert ordering([fast, slow]) == 1.0
    assert ordering([fast, Pair("s", 2.0, 1.1, "q", "b")]) == -1.0
    assert ordering([fast, Pair("s", 2.0, 1.1, "q", "a")]) is None
    assert ordering([fast, Pair("s", 2.0, 1.1, "another", "b")]) is None
    assert ordering([fast, slow, Pair("s", 3.0, 1.3, "q", "c")]) == pytest.approx(1 / 3)


def test_published_steps_are_predicted_as_well_as_the_docs_say():
    """The bounds leave a little room above docs/backtest.md."""
    result = backtest(ROWS)
    assert not result.unpriced
    steps, memory = summary(result.steps), summary(result.memory)
    assert steps.rows == 592
    assert steps.mean_of_medians is not None
    assert steps.mean_of_medians <= 0.08
    assert steps.p90 is not None
    assert steps.p90 <= 0.23
    assert memory.mean_of_medians is not None
    assert memory.mean_of_medians <= 0.065
    assert steps.tau is not None
    assert steps.tau >= 0.6
