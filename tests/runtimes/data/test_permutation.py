"""The shuffle is a bijection for every size, differs by epoch and seed, and looks shuffled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtimes.data.permutation import Permutation


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_every_index_comes_exactly_once(size: int, seed: int, epoch: int) -> None:
    indices = Permutation(size, seed=seed, epoch=epoch)(np.arange(size))
    assert indices.dtype == np.int64
    assert sorted(indices.tolist()) == list(range(size))


@given(positions=st.lists(st.integers(0, 10**15 - 1), min_size=1, max_size=50))
def test_a_position_alone_gives_what_it_gives_among_others_at_any_scale(positions: list[int]) -> None:
    permutation = Permutation(10**15, seed=3, epoch=1)
    together = permutation(np.array(positions))
    assert [int(permutation(np.array([position]))[0]) for position in positions] == together.tolist()
    assert ((together >= 0) & (together < 10**15)).all()


def test_epochs_and_seeds_differ() -> None:
    orders = [
        Permutation(1000, seed=seed, epoch=epoch)(np.arange(1000)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    for number, order in enumerate(orders):
        for other in orders[number + 1 :]:
            assert (order == other).mean() < 0.02


@pytest.mark.parametrize("size", [100, 4096, 5000, 70_000])
def test_the_order_does_not_follow_the_positions(size: int) -> None:
    order = Permutation(size, seed=0, epoch=0)(np.arange(size))
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 5 / size**0.5
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / size**0.5
    assert (np.abs(np.diff(order)) == 1).mean() < 0.05


def test_every_order_of_a_few_elements_occurs_about_equally_often() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(6000):
        order = tuple(Permutation(3, seed=0, epoch=epoch)(np.arange(3)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < 6 * 1000**0.5 for count in counts.values()), counts
