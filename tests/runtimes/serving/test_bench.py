"""The benchmark against a server whose behaviour is known, and the twin of a server whose steps have known times."""

from __future__ import annotations

import asyncio
import json
import math
import time

import numpy as np
import pytest

from llmc.runtimes.serving import twin
from llmc.runtimes.serving.arrivals import ClosedLoop, closed_loop, fixed, poisson
from llmc.runtimes.serving.bench import Measured, Target, measure
from llmc.runtimes.serving.bench_report import figures, plot, table
from llmc.runtimes.serving.generation import Generation, Sampling
from llmc.runtimes.serving.simulation import Outcome
from llmc.runtimes.serving.twin import TwinRunner, TwinSampler
from llmc.runtimes.serving.work import Chunk


def run(server, load, **options) -> Measured:
    return asyncio.run(measure(Target(server.url, "tiny", **options), load))


def always_a(tokens: list[int]) -> np.ndarray:
    """A letter that is shown at once: parts of characters would come together."""
    row = np.zeros(VOCAB, np.float32)
    row[ord("a")] = 50
    return row


VOCAB = 260


def test_an_open_loop_sends_at_its_times_and_counts_every_token(live):
    server = live(step_s=0.002, max_batch=8, logits=always_a)
    load = poisson(40, num_requests=20, lengths=fixed(10, 6), seed=1)
    measured = run(server, load)
    assert measured.errors == {}
    assert [outcome.arrived_s for outcome in measured.outcomes] == [arrival.time_s for arrival in load]
    assert [outcome.output_tokens for outcome in measured.outcomes] == [6] * 20
    for outcome in measured.outcomes:
        assert outcome.ttft_s >= 0.002
        assert outcome.e2e_s >= 6 * 0.002
    assert measured.duration_s >= load[-1].time_s
    assert server.parts.wait_empty()


def test_a_closed_loop_has_so_many_in_flight_and_no_more(live):
    server = live(step_s=0.001, max_batch=8)
    measured = run(server, closed_loop(3, num_requests=12, lengths=fixed(4, 5)))
    assert len(measured.outcomes) == 12
    assert all(outcome.finished_s is not None for outcome in measured.outcomes)
    assert server.parts.runner.largest_batch <= 3


def test_refusals_and_failures_are_told_apart(live):
    server = live(step_s=0.02, max_batch=1, max_waiting=1)
    measured = run(server, ClosedLoop(6, [(4, 20)] * 6))
    assert sum(outcome.is_refused for outcome in measured.outcomes) == len(measured.refused_s) == 4
    assert measured.errors == {}
    broken = run(server, ClosedLoop(1, [(4, 500)]))
    ((message, count),) = broken.errors.items()
    assert (message[:4], count) == ("400:", 1)
    assert run(live(), [], key="k").outcomes == []
    gone = Measured()
    gone = asyncio.run(measure(Target("http://127.0.0.1:9", "tiny"), ClosedLoop(1, [(1, 1)])))
    assert gone.errors == {"ConnectError": 1}


def measured_by_hand() -> Measured:
    """Ten requests a second apart: first token after 0.1 … 1.0 s, then four more tokens 0.1 s apart."""
    outcomes = [Outcome(at, 8, 5, at + 0.1 * (at + 1), at + 0.1 * (at + 1) + 0.4) for at in range(10)]
    return Measured([*outcomes, Outcome(10.0, 8, 5, is_refused=True)], duration_s=20.0, refused_s=[0.002])


def test_figures_by_hand(tmp_path):
    found = figures(measured_by_hand(), slo={"ttft_p99_ms": 500}, predicted={"ttft_p50_ms": 600})
    assert (found["requests"], found["finished"], found["refused"]) == (11, 10, 1)
    assert found["ttft_p50_ms"] == pytest.approx(550)
    assert found["tpot_p99_ms"] == pytest.approx(100)
    assert found["output_tokens_per_s"] == pytest.approx(2.5)
    assert found["goodput_per_s"] == pytest.approx(5 / 20)
    assert found["refusal_p99_ms"] == pytest.approx(2)
    json.dumps(found)
    lines = table(found).splitlines()
    assert lines[0] == "10 of 11 requests finished in 20.0 s, 1 refused, 0 failed"
    assert lines[2].split() == ["TTFT", "p50", "550", "600", "ms"]
    assert lines[4].split() == ["TTFT", "p99", "991", "500", "ms"]
    assert "50.0% of those finished" in lines[-1]
    plot(measured_by_hand(), tmp_path / "bench.png", slo={"ttft_p99_ms": 500})
    assert (tmp_path / "bench.png").read_bytes()[:4] == b"\x89PNG"


def test_a_twin_takes_its_time_and_makes_it_up():
    runner = TwinRunner(lambda work: 0.01 * sum(tokens for tokens, _ in work))
    chunk = Chunk([0], 0, [1, 2], True)
    began = time.monotonic()
    assert runner.step([chunk, chunk._replace(needs_logits=False)]) == [chunk]
    assert time.monotonic() - began >= 0.04
    for _ in range(10):
        runner.step([chunk])
    assert time.monotonic() - began >= 0.04 + 10 * 0.02 - 1e-6
    assert TwinRunner(lambda work: 5.0, speed=1000).step([]) == []


def test_a_twin_in_stages_takes_a_step_after_the_other_through_each(monkeypatch: pytest.MonkeyPatch):
    """Two stages, half of a step in each: 1 s and 0.5 s. The second step is ready when the first leaves, and takes its half."""
    now = [0.0]
    monkeypatch.setattr(twin.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(twin.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    runner = twin.StagedTwinRunner(lambda work: float(sum(tokens for tokens, _ in work)), num_stages=2)
    first, second = [Chunk([0], 0, [1, 2], True)], [Chunk([1], 4, [3], True)]
    runner.begin(first)
    runner.begin(second)
    assert runner.step(first) == first
    assert now == [2.0]
    assert runner.step(second) == second
    assert now == [2.5]


def test_a_twin_never_ends_an_answer_by_itself():
    sampler = TwinSampler(4)
    generation = Generation(
        tokens=[1], num_prompt=1, max_tokens=9, eos=frozenset([0, 2]), sampling=Sampling(num_logprobs=0)
    )
    drawn = [sampler.sample([], [generation])[0] for _ in range(200)]
    assert {one.token for one in drawn} == {1, 3}
    assert drawn[0].logprob == pytest.approx(-math.log(4))
