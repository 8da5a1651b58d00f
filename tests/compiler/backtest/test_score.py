"""Figures of merit on a few pairs, by hand; and that the committed rows are predicted as well as the docs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler.backtest.backtest import Backtest, backtest, summary
from llmc.compiler.backtest.score import NOISE, Pair, by_source, by_study, ordering, quantile

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


def test_layouts_within_noise_may_be_left_out():
    near = [Pair("s", 1.0, 1.2, "q", "a"), Pair("s", 1.02, 1.1, "q", "b"), Pair("s", 2.0, 3.0, "q", "c")]
    assert ordering(near) == pytest.approx(1 / 3)
    assert ordering(near, apart=NOISE) == 1.0


def test_cases_of_a_study_compete_though_each_is_a_source():
    cases = [
        Pair(f"paper case {name}", time, time, "q", name, study="paper") for name, time in (("a", 1.0), ("b", 2.0))
    ]
    assert [source.tau for source in by_source(cases)] == [None, None]
    assert [(study.study, study.pairs, study.tau) for study in by_study(cases)] == [("paper", 1, 1.0)]


@pytest.fixture(scope="module")
def result() -> Backtest:
    return backtest(ROWS)


def test_published_steps_are_predicted_as_well_as_the_docs_say(result: Backtest):
    """The bounds leave a little room above docs/backtest.md."""
    assert not result.unpriced
    steps, memory = summary(result.steps), summary(result.memory)
    assert steps.rows == 592
    assert steps.mean_of_medians is not None
    assert steps.mean_of_medians <= 0.07
    assert steps.p90 is not None
    assert steps.p90 <= 0.18
    assert memory.mean_of_medians is not None
    assert memory.mean_of_medians <= 0.06
    assert steps.tau is not None
    assert steps.tau >= 0.75
    assert steps.tau_apart is not None
    assert steps.tau_apart >= 0.86


def test_a_source_that_was_not_fitted_is_predicted_nearly_as_well(result: Backtest):
    for kind, covered, most in (("source", True, 0.09), ("model", False, 0.09), ("publisher", False, 0.16)):
        figures = summary(result.left_out(kind, covered=covered))
        assert figures.mean_of_medians is not None
        assert figures.mean_of_medians <= most, kind


def test_nine_of_ten_published_steps_lie_in_the_interval_predicted_without_their_publisher(result: Backtest):
    inside = 0
    for each in result.priced:
        assert each.row.step_time_s is not None
        without = each.row.step_time_s * (1 + each.left_out["publisher"])
        inside += each.low_share * without <= each.row.step_time_s <= each.high_share * without
    assert inside / len(result.priced) >= 0.87
