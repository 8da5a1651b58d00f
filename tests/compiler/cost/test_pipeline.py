"""Pipeline schedules against the formulas of their papers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.compiler.cost.pipeline import bubble_s, in_flight, layers_of_ranks, sends_of_fill
from llmc.compiler.planner.layout import Layout


def bubble(schedule: str, *, ranks: int = 4, micro_batches: int = 8, virtual: int = 1) -> float:
    return bubble_s(
        schedule,  # pyright: ignore[reportArgumentType]
        ranks=ranks,
        micro_batches=micro_batches,
        virtual=virtual,
        forward_s=1.0,
        backward_s=2.0,
    )


def test_bubbles():
    assert bubble("gpipe") == bubble("1f1b") == 3 * (1 + 2)
    assert bubble("interleaved_1f1b", virtual=3) == 3 * (1 + 2) / 3
    assert bubble("zero_bubble") == 3 * (1 + 2 - 2 * 1)
    assert bubble("dualpipe") == (4 / 2 - 1) * (3 + 2 - 3 * 1)


def test_interleaving_pays_for_an_incomplete_round():
    assert bubble("interleaved_1f1b", micro_batches=6, virtual=2) == (3 * 3 + 2 * 3) / 2


def test_sends_while_a_pipeline_fills():
    """Rank 0 of 4 starts its third stage when the first micro-batch has been through 2 · 4 stages; then 3 sends to the last rank."""
    assert sends_of_fill(Layout(pp=4, schedule="1f1b")) == 3
    assert sends_of_fill(Layout(pp=4, schedule="interleaved_1f1b", virtual_stages=3)) == 2 * 4 + 3


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe"])
def test_one_rank_never_waits(schedule: str):
    assert bubble(schedule, ranks=1) == 0.0


def held(schedule: str, rank: int, *, virtual: int = 1, micro_batches: int = 16) -> float:
    return in_flight(
        schedule,  # pyright: ignore[reportArgumentType]
        rank=rank,
        ranks=4,
        micro_batches=micro_batches,
        virtual=virtual,
    )


def test_micro_batches_in_flight():
    assert held("gpipe", 3) == 16
    assert [held("1f1b", rank) for rank in range(4)] == [4, 3, 2, 1]
    assert held("1f1b", 0, micro_batches=2) == 2
    assert [held("zero_bubble", rank) for rank in range(4)] == [4, 3, 2, 1]
    assert held("interleaved_1f1b", 0, virtual=2) == 4 * (1 + 3 / 8)
    assert held("dualpipe", 0) == 5


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 4))
def test_every_layer_is_on_one_rank_and_stages_differ_by_one(num_layers: int, ranks: int, virtual: int):
    """Two of thirty layers once vanished in a well-known program."""
    stages = layers_of_ranks(Layout(pp=ranks, virtual_stages=virtual), num_layers=num_layers)
    assert sorted(layer for layers in stages for layer in layers) == list(range(num_layers))
    sizes = [len(layers) for layers in stages]
    assert max(sizes) - min(sizes) <= virtual


def test_a_v_comes_back_to_the_first_rank():
    layout = Layout(pp=3, schedule="dualpipe", virtual_stages=2, stages=(1, 2, 2, 1, 1, 1))
    assert layers_of_ranks(layout, num_layers=8) == [[0, 7], [1, 2, 6], [3, 4, 5]]
    assert bubble("dualpipe", virtual=2) == (4 - 1) / 2 * (3 + 2 - 3 * 1)
