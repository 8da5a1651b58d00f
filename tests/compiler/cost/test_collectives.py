"""Collectives against times worked out by hand and against the public measurements they were fitted on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.compiler.cost.collectives import (
    Group,
    Link,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    broadcasts_s,
    dispatch_s,
    send_s,
)

from ..models import h100s

FAST, SLOW = Link(1e-6, 100e9), Link(5e-6, 10e9)


def group(inside: int, across: int = 1) -> Group:
    return Group(inside=inside, across=across, fast=FAST, slow=SLOW)


def test_a_ring_of_four():
    # 3 steps of 1 µs, each moving a quarter of 400 MB at 100 GB/s
    assert all_gather_s(400e6, group(4)) == pytest.approx(3 * (1e-6 + 100e6 / 100e9))


def test_broadcasts_in_turn_pay_for_every_hop_once_a_rank():
    # each rank's 100 MB go round a ring of four, 3 hops of 1 µs, before the next rank's do
    assert broadcasts_s(400e6, group(4)) == pytest.approx(3 * 100e6 / 100e9 + 4 * 3 * 1e-6)


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    assert all_reduce_s(400e6, group(4)) == pytest.approx(2 * all_gather_s(400e6, group(4)))


def test_a_ring_over_nodes_runs_at_its_narrowest_hop():
    # two nodes of four: four NICs at 10 GB/s together are narrower than a fast link; two slow hops and five fast ones
    assert all_gather_s(400e6, group(4, 2)) == pytest.approx(2 * 5e-6 + 5 * 1e-6 + 7 / 8 * 400e6 / 40e9)


def test_many_nics_are_no_faster_than_the_links_inside():
    wide = Group(inside=8, across=4, fast=FAST, slow=Link(5e-6, 50e9))
    assert all_gather_s(32e9, wide) == pytest.approx(31 / 32 * 32e9 / 100e9, rel=1e-3)


def test_one_member_a_node_has_one_nic():
    assert all_gather_s(400e6, group(1, 4)) == pytest.approx(4 * 5e-6 + 3 / 4 * 400e6 / 10e9, rel=1e-3)


def test_a_row_for_many_experts_crosses_the_network_once_a_node():
    # 8 experts at random on 4 nodes: 4 (1 - (3/4)^8) = 3.6 nodes need the row, three quarters of them elsewhere
    nodes = 4 * (1 - 0.75**8)
    expected = 7 * 1e-6 + 3 * 5e-6 + 0.75 * nodes * 100e6 / 10e9
    assert dispatch_s(100e6, group(8, 4), copies=8) == pytest.approx(expected, rel=1e-3)
    assert dispatch_s(100e6, group(8, 4), copies=8) < all_to_all_s(800e6, group(8, 4))
    assert dispatch_s(100e6, group(8), copies=8) == all_to_all_s(800e6, group(8))


def test_all_to_all_sends_most_of_it_elsewhere():
    # of 800 MB on each of 8 ranks in two nodes, 3/8 goes to neighbours and 4/8 over the network
    assert all_to_all_s(800e6, group(4, 2)) == pytest.approx(3e-6 + 5e-6 + 400e6 / 10e9)


def test_a_group_of_one_communicates_nothing():
    assert all_reduce_s(1e9, group(1)) == all_to_all_s(1e9, group(1)) == 0.0


def test_send():
    assert send_s(1e9, SLOW) == pytest.approx(5e-6 + 0.1)


def test_eight_h100_gather_at_the_measured_rate():
    """Measured: 12.8 µs and 342 GB/s of (n−1)/n · size."""
    size = 1e9
    measured = 12.8e-6 + 7 / 8 * size / 342e9
    assert all_gather_s(size, h100s(8).group(8)) == pytest.approx(measured, rel=0.02)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 16]), st.floats(1e3, 1e10))
def test_more_bytes_never_take_less_time(inside: int, across: int, size: float):
    for law in (all_gather_s, all_reduce_s, all_to_all_s):
        assert law(size, group(inside, across)) <= law(2 * size, group(inside, across))


@pytest.mark.parametrize(
    ("size", "stride", "inside", "across"),
    [(8, 1, 8, 1), (64, 1, 8, 8), (8, 8, 1, 8), (4, 4, 2, 2), (16, 2, 4, 4), (2, 1, 2, 1)],
)
def test_an_axis_takes_fast_links_as_far_as_they_reach(size: int, stride: int, inside: int, across: int):
    found = h100s(64).group(size, stride=stride)
    assert (found.inside, found.across) == (inside, across)
