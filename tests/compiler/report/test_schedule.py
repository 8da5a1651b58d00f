"""Schedules played out against the formulas that plans are priced with."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from llmc.compiler.cost.pipeline import bubble_s
from llmc.compiler.report.schedule import Block, idle_s, orders, play, shown_micro_batches

EXACT = [("gpipe", 1), ("1f1b", 1), ("interleaved_1f1b", 2), ("interleaved_1f1b", 4), ("zero_bubble", 1)]


def played(schedule: str, *, ranks: int, micro_batches: int, virtual: int = 1) -> list[Block]:
    found = orders(schedule, ranks=ranks, micro_batches=micro_batches, virtual=virtual)  # type: ignore[arg-type]
    return play(found, forward=[1.0] * ranks, backward=[2.0] * ranks, virtual=virtual)


@pytest.mark.parametrize(("schedule", "virtual"), EXACT)
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_every_rank_idles_as_the_formula_says(schedule: str, virtual: int, ranks: int, rounds: int):
    blocks = played(schedule, ranks=ranks, micro_batches=rounds * ranks, virtual=virtual)
    expected = bubble_s(
        schedule,  # type: ignore[arg-type]
        ranks=ranks,
        micro_batches=rounds * ranks,
        virtual=virtual,
        forward_s=1.0,
        backward_s=2.0,
    )
    assert [idle_s(blocks, rank=rank) for rank in range(ranks)] == pytest.approx([expected] * ranks)


@pytest.mark.parametrize("virtual", [1, 2])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_dualpipe_idles_no_longer_than_its_formula(ranks: int, virtual: int):
    """Its pairs of passes are played one after the other here, which lets the next rank start a little earlier."""
    blocks = played("dualpipe", ranks=ranks, micro_batches=4 * ranks, virtual=virtual)
    formula = bubble_s("dualpipe", ranks=ranks, micro_batches=4 * ranks, virtual=virtual, forward_s=1.0, backward_s=2.0)
    one_f_one_b = bubble_s("1f1b", ranks=ranks, micro_batches=4 * ranks, virtual=1, forward_s=1.0, backward_s=2.0)
    for rank in range(ranks):
        assert idle_s(blocks, rank=rank) <= formula + 1e-9 < one_f_one_b


@pytest.mark.parametrize(
    ("schedule", "virtual"), [*EXACT, ("dualpipe", 1), ("dualpipe", 2)], ids=lambda value: str(value)
)
def test_every_pass_runs_once_and_a_rank_does_one_thing_at_a_time(schedule: str, virtual: int):
    ranks, m = 4, 16
    blocks = played(schedule, ranks=ranks, micro_batches=m, virtual=virtual)
    assert max(Counter(block.work for block in blocks).values()) == 1
    for rank in range(ranks):
        mine = sorted((block for block in blocks if block.rank == rank), key=lambda block: block.start)
        assert Counter(block.work.kind for block in mine)["F"] == m * virtual
        assert Counter(block.work.kind for block in mine)["B"] == m * virtual
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(mine))
        assert sum(block.end - block.start for block in mine) == pytest.approx(3.0 * m)


def test_a_backward_pass_waits_for_the_next_stage():
    blocks = {block.work: block for block in played("1f1b", ranks=4, micro_batches=4)}
    for work, block in blocks.items():
        if work.kind == "B" and work.stage < 3:
            assert block.start >= blocks[work._replace(stage=work.stage + 1)].end - 1e-9
        if work.kind == "F" and work.stage > 0:
            assert block.start >= blocks[work._replace(stage=work.stage - 1)].end - 1e-9


def test_a_slow_rank_makes_the_others_wait():
    found = orders("1f1b", ranks=2, micro_batches=8, virtual=1)
    blocks = play(found, forward=[1.0, 3.0], backward=[2.0, 6.0])
    assert idle_s(blocks, rank=0) > 8 * 5
    assert idle_s(blocks, rank=1) == pytest.approx(
        3.0
    )  # it fills with one forward and drains with one backward of rank 0


@pytest.mark.parametrize(("schedule", "virtual", "m"), [("interleaved_1f1b", 2, 6), ("dualpipe", 2, 4)])
def test_numbers_without_an_order_are_refused(schedule: str, virtual: int, m: int):
    with pytest.raises(ValueError, match=f"there are {m}"):
        orders(schedule, ranks=4, micro_batches=m, virtual=virtual)  # type: ignore[arg-type]


def test_long_steps_are_drawn_in_part_and_in_whole_rounds():
    assert shown_micro_batches("1f1b", ranks=4, micro_batches=16, virtual=1, at_most=1600) == 16
    shown = shown_micro_batches("interleaved_1f1b", ranks=16, micro_batches=512, virtual=4, at_most=1600)
    assert shown < 512
    assert shown % 16 == 0
