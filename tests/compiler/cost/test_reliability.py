"""Checkpoint intervals and goodput: against Young's and Daly's limits, and against a simulated machine that fails at random."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.compiler.cost.reliability import (
    HOUR_S,
    best_interval_s,
    checkpoint_bytes,
    goodput_share,
    machine_mtbf_s,
    reliability,
    write_s,
)


def test_meta_lost_a_device_every_three_hours():
    """16,384 H100: 419 unexpected interruptions in 54 days."""
    assert machine_mtbf_s(16_384) == pytest.approx(54 * 24 / 419 * HOUR_S, rel=0.01)


def test_a_checkpoint_holds_master_and_moments():
    assert checkpoint_bytes(1e9, moments=8.0) == 12e9
    assert checkpoint_bytes(1e9, moments=4.0) == 8e9


def test_the_narrower_of_nodes_and_storage_decides():
    assert write_s(1e12, nodes=10, node_bytes_per_s=1e10) == 10.0
    assert write_s(1e12, nodes=10, node_bytes_per_s=1e10, storage_bytes_per_s=5e10) == 20.0


def test_short_checkpoints_come_at_youngs_interval():
    assert best_interval_s(stop_s=1.0, mtbf_s=1e6) == pytest.approx(math.sqrt(2 * 1e6), rel=2e-3)
    assert best_interval_s(stop_s=300.0, mtbf_s=100.0) == 100.0


@given(st.floats(1.0, 600.0), st.floats(1800.0, 1e6))
def test_no_other_interval_loses_much_less(stop_s: float, mtbf_s: float):
    best = best_interval_s(stop_s=stop_s, mtbf_s=mtbf_s)
    share = goodput_share(interval_s=best, stop_s=stop_s, mtbf_s=mtbf_s)
    for factor in (0.5, 0.8, 1.25, 2.0):
        other = goodput_share(interval_s=factor * best, stop_s=stop_s, mtbf_s=mtbf_s)
        assert other <= share * 1.001


def test_goodput_is_what_a_machine_that_fails_at_random_does():
    """Train, write, fail, restart: 20,000 failures."""
    interval_s, stop_s, mtbf_s, restart_s = 1200.0, 60.0, 3 * HOUR_S, 600.0
    dice = random.Random(0)
    trained = passed = 0.0
    next_failure = dice.expovariate(1 / mtbf_s)
    failures = 0
    while failures < 20_000:
        needed = interval_s + stop_s
        if next_failure >= needed:
            passed, trained, next_failure = passed + needed, trained + interval_s, next_failure - needed
            continue
        passed += next_failure
        next_failure, failures = dice.expovariate(1 / mtbf_s), failures + 1
        while next_failure < restart_s:  # a restart can fail as well
            passed += next_failure
            next_failure, failures = dice.expovariate(1 / mtbf_s), failures + 1
        passed, next_failure = passed + restart_s, next_failure - restart_s
    predicted = goodput_share(interval_s=interval_s, stop_s=stop_s, mtbf_s=mtbf_s, restart_s=restart_s)
    assert predicted == pytest.approx(trained / passed, rel=0.01)


def test_writing_from_the_hosts_memory_stops_training_for_the_copy_alone():
    size = 405e9 * 12
    figures = {"num_devices": 16_384, "nodes": 2048, "node_bytes_per_s": 2e9, "storage_bytes_per_s": 2e12}
    plain, copied = reliability(size, **figures), reliability(size, **figures, host_bytes_per_s=50e9)
    assert plain.write_s == copied.write_s == pytest.approx(size / 2e12)
    assert copied.stop_s < 0.01 < plain.stop_s
    assert plain.goodput < copied.goodput < 1
    assert copied.interval_s + copied.stop_s >= copied.write_s


def test_more_devices_fail_more_often():
    shares = [
        reliability(1e12, num_devices=devices, nodes=devices // 8, node_bytes_per_s=2e9).goodput
        for devices in (64, 1024, 16_384, 131_072)
    ]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < shares[0] < 1
