"""The virtual clock: queueing theory where it has a closed form, hand-worked cases where it has none."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.serving.arrivals import (
    Arrival,
    bursts,
    closed_loop,
    fixed,
    poisson,
    read_trace,
    static_batch,
    varied,
)
from llmc.runtimes.serving.scheduler import Scheduler
from llmc.runtimes.serving.simulation import Limits, keeps, percentile, simulate

ONE = Limits(max_batch=1, max_seq_len=64, prefill_chunk=64)
SERVICE_S = 0.01


def one_step(work) -> float:
    return SERVICE_S


def tokens_ms(work) -> float:
    """A millisecond a token of the step."""
    return 1e-3 * sum(tokens for tokens, _ in work)


@pytest.mark.parametrize(("utilisation", "num_requests"), [(0.3, 20_000), (0.5, 30_000), (0.7, 120_000)])
def test_one_server_with_equal_requests_waits_as_in_m_d_1(utilisation: float, num_requests: int):
    """One slot, one step a request: mean wait = ρ D / (2 (1 − ρ)), share that does not wait = 1 − ρ (Pollaczek–Khinchine)."""
    load = poisson(utilisation / SERVICE_S, num_requests=num_requests, lengths=fixed(8, 1), seed=7)
    report = simulate(load, ONE, one_step)
    waits = [outcome.ttft_s - SERVICE_S for outcome in report.outcomes]
    expected = utilisation * SERVICE_S / (2 * (1 - utilisation))
    assert sum(waits) / len(waits) == pytest.approx(expected, rel=0.03)
    at_once = sum(wait < 1e-9 for wait in waits) / len(waits)
    assert at_once == pytest.approx(1 - utilisation, rel=0.03)
    assert report.busy_s / report.duration_s == pytest.approx(utilisation, rel=0.03)
    # P(wait <= D) = (1 − ρ) e^ρ (Erlang's formula for t in [0, D))
    within = sum(wait < SERVICE_S - 1e-9 for wait in waits) / len(waits)
    assert within == pytest.approx((1 - utilisation) * math.exp(utilisation), rel=0.03)


def test_stages_work_on_a_step_each():
    """Two stages, half a millisecond a token in each. The prompts, of a token each, go together: first tokens after 2 ms. Then one
    answer's tokens follow in 3, 4 and 5 ms, those of the other half a millisecond later; in one stage each would take 2 ms."""
    load = closed_loop(2, num_requests=2, lengths=fixed(1, 4))
    limits = Limits(max_batch=2, max_seq_len=64, prefill_chunk=64)
    staged, whole = (simulate(load, replace(limits, stages=stages), tokens_ms) for stages in (2, 1))
    assert [each.first_s for each in staged.outcomes] == pytest.approx([2e-3, 2e-3])
    assert [each.finished_s for each in staged.outcomes] == pytest.approx([5e-3, 5.5e-3])
    assert [each.finished_s for each in whole.outcomes] == pytest.approx([8e-3, 8e-3])
    alone = simulate(closed_loop(1, num_requests=1, lengths=fixed(1, 4)), replace(limits, stages=2), tokens_ms)
    assert [each.finished_s for each in alone.outcomes] == pytest.approx([4e-3]), "no faster than in one stage"


def test_requests_in_the_system_are_rate_times_stay():
    """Little's law, with batches and answers of many tokens."""
    limits = Limits(max_batch=8, max_seq_len=400, prefill_chunk=64)
    load = poisson(3, num_requests=3000, lengths=varied(60, 20, longest=400), seed=1)
    report = simulate(load, limits, lambda work: 2e-3 + 1e-4 * sum(tokens for tokens, _ in work))
    changes = sorted(
        [(o.arrived_s, 1) for o in report.outcomes] + [(o.finished_s, -1) for o in report.outcomes],
    )
    area, inside, before = 0.0, 0, 0.0
    for time_s, change in changes:
        area += inside * (time_s - before)
        inside, before = inside + change, time_s
    assert area / report.duration_s == pytest.approx(report.requests_per_s * report.e2e.mean_s, rel=1e-9)
    assert report.largest_batch > 2


@pytest.mark.parametrize("kv_tokens", [None, 300], ids=["ample", "crowded"])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_steps_that_are_alike_come_to_the_same_at_once(
    kv_tokens: int | None, prefix_cache: bool, monkeypatch: pytest.MonkeyPatch
):
    """Every time of the trace, though the scheduler plans a fifth of the steps only; with and without somebody who gives up room."""
    load = poisson(5, num_requests=200, lengths=varied(40, 60, spread=0.5, longest=160), seed=11)
    limits = Limits(
        max_batch=6, max_seq_len=160, prefill_chunk=32, kv_tokens=kv_tokens, prefix_cache=prefix_cache, block_tokens=4
    )
    planned: list[int] = []
    plan = Scheduler.step_plan
    monkeypatch.setattr(Scheduler, "step_plan", lambda self: planned.append(1) or plan(self))
    at_once = simulate(load, limits, tokens_ms)
    num_planned = len(planned)
    monkeypatch.setattr(Scheduler, "steady_steps", lambda self: 0)
    one_by_one = simulate(load, limits, tokens_ms)
    assert at_once.fingerprint() == one_by_one.fingerprint()
    assert (at_once.num_preempted > 0) == (one_by_one.num_preempted > 0) == (kv_tokens is not None)
    assert num_planned < (0.6 if kv_tokens is not None else 0.4) * at_once.num_steps


def test_a_static_batch_by_hand():
    """Two prompts of 4 in one step of 8 tokens, then two answers of 3: two more steps of 2 tokens."""
    report = simulate(
        static_batch(2, lengths=fixed(4, 3)), Limits(max_batch=2, max_seq_len=16, prefill_chunk=8), tokens_ms
    )
    assert [e.kind for e in report.trace] == ["arrive", "arrive", "step", "first", "first", "step", "step"] + [
        "finish"
    ] * 2
    assert [outcome.ttft_s for outcome in report.outcomes] == [pytest.approx(0.008)] * 2
    assert [outcome.tpot_s for outcome in report.outcomes] == [pytest.approx(0.002)] * 2
    assert report.duration_s == pytest.approx(0.012)
    assert report.output_tokens_per_s == pytest.approx(6 / 0.012)


def test_a_chunked_prompt_delays_an_answer_by_one_chunk_a_step():
    first, second = Arrival(0.0, 2, 4), Arrival(0.0021, 10, 1)
    report = simulate([first, second], Limits(max_batch=2, max_seq_len=16, prefill_chunk=4), tokens_ms)
    steps = [event.number for event in report.trace if event.kind == "step"]
    assert steps == [2, 1, 5, 5, 2]  # the prompt comes within the second step; 4 + 4 + 2 of it ride along
    assert report.outcomes[0].finished_s == pytest.approx(0.013)
    assert report.outcomes[1].ttft_s == pytest.approx(0.015 - 0.0021)


def test_a_closed_loop_keeps_its_concurrency():
    limits = Limits(max_batch=16, max_seq_len=64, prefill_chunk=64)
    report = simulate(closed_loop(4, num_requests=40, lengths=fixed(8, 5), seed=3), limits, one_step)
    assert report.num_finished == 40
    assert report.largest_batch == 4
    assert report.num_steps == 40 / 4 * 5
    assert report.requests_per_s == pytest.approx(4 / (5 * SERVICE_S))


def test_bursts_have_the_mean_rate_and_wait_longer():
    one_by_one = poisson(50, num_requests=4000, lengths=fixed(8, 1), seed=5)
    together = bursts(50, burst=8, num_requests=4000, lengths=fixed(8, 1), seed=5)
    assert 4000 / together[-1].time_s == pytest.approx(50, rel=0.1)
    assert [a.time_s for a in together[:8]] == [together[0].time_s] * 8
    assert simulate(together, ONE, one_step).ttft.mean_s > 3 * simulate(one_by_one, ONE, one_step).ttft.mean_s


def test_what_the_queue_cannot_hold_is_refused_and_the_rest_is_in_time():
    """Twice what it can do: a bound of 5 requests keeps the wait below 6 services."""
    limits = Limits(max_batch=1, max_seq_len=64, prefill_chunk=64, max_waiting=5)
    report = simulate(poisson(2 / SERVICE_S, num_requests=5000, lengths=fixed(8, 1), seed=2), limits, one_step)
    assert report.num_refused + report.num_finished == 5000
    assert report.num_refused / 5000 == pytest.approx(0.5, abs=0.03)
    assert report.ttft.max_s <= 7 * SERVICE_S + 1e-9
    assert report.goodput_per_s(ttft_s=7 * SERVICE_S) == pytest.approx(1 / SERVICE_S, rel=0.02)


@pytest.mark.parametrize("lengths", [fixed(32, 24), varied(32, 24)])
def test_at_three_times_its_capacity_a_server_holds_its_objective_and_its_goodput(lengths):
    """What is admitted begins in time, all of it, and as much is done as at the peak; without the bound neither is so."""
    step_s, batch, objective_s = 22.4e-3, 16, 0.5
    capacity = batch / (24 * step_s)

    def play(load_factor: float, **bounds) -> tuple[float, float]:
        limits = Limits(max_batch=batch, max_seq_len=512, prefill_chunk=256, max_waiting=batch, **bounds)
        report = simulate(
            poisson(load_factor * capacity, num_requests=1500, lengths=lengths, seed=4),
            limits,
            lambda work: 20e-3 + 50e-6 * sum(tokens for tokens, _ in work),
        )
        begun = [outcome.ttft_s for outcome in report.outcomes if outcome.first_s is not None]
        return sum(ttft_s <= objective_s for ttft_s in begun) / len(begun), report.goodput_per_s(ttft_s=objective_s)

    bound = int((objective_s - 3 * step_s) / step_s)  # its own prompt, the step in progress, one to spare
    _, peak = play(1.0, max_wait_steps=bound)
    in_time, goodput = play(3.0, max_wait_steps=bound)
    assert in_time >= 0.99
    assert goodput >= 0.95 * peak
    assert play(3.0)[0] < 0.6


def test_a_request_longer_than_the_context_is_refused():
    report = simulate([Arrival(0.0, 60, 10), Arrival(0.0, 60, 4)], ONE, one_step)
    assert [outcome.is_refused for outcome in report.outcomes] == [True, False]


def test_one_seed_gives_one_trace():
    def play(seed: int):
        load = poisson(40, num_requests=500, lengths=varied(40, 10, longest=120), seed=seed)
        return simulate(load, Limits(max_batch=6, max_seq_len=120, prefill_chunk=32), tokens_ms)

    first, again, other = play(1), play(1), play(2)
    assert first.trace == again.trace
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_lengths_have_their_means():
    rng, draw = random.Random(0), varied(200, 50, spread=0.7)
    drawn = [draw(rng) for _ in range(20_000)]
    assert sum(pair[0] for pair in drawn) / len(drawn) == pytest.approx(200, rel=0.03)
    assert sum(pair[1] for pair in drawn) / len(drawn) == pytest.approx(50, rel=0.03)


def test_percentiles_lie_between_the_nearest_values():
    assert [percentile([1.0, 2.0, 4.0], share) for share in (0, 0.25, 0.5, 1)] == [1.0, 1.5, 2.0, 4.0]


def test_goodput_counts_what_keeps_both_objectives():
    (outcome,) = simulate([Arrival(0.0, 4, 3)], ONE, tokens_ms).outcomes  # first after 4 ms, then 1 ms each
    assert keeps(outcome, ttft_s=0.0041, tpot_s=0.0011)
    assert not keeps(outcome, ttft_s=0.0039, tpot_s=0.0011)
    assert not keeps(outcome, ttft_s=0.0041, tpot_s=0.0009)


def test_a_trace_is_read_and_what_is_wrong_in_it_is_said(tmp_path):
    file = tmp_path / "trace.jsonl"
    file.write_text(
        '{"time_s": 1, "input_tokens": 5, "output_tokens": 2}\n\n'
        '{"time_s": 0.5, "input_tokens": 7, "output_tokens": 1, "model": "x"}\n'
    )
    assert read_trace(file) == [Arrival(0.5, 7, 1), Arrival(1.0, 5, 2)]
    file.write_text('{"time_s": 1, "input_tokens": 5}\n')
    with pytest.raises(RunError, match=r"trace.jsonl:1 is not a recorded request: KeyError\('output_tokens'\)"):
        read_trace(file)
    file.write_text('{"time_s": 1, "input_tokens": 0, "output_tokens": 3}\n')
    with pytest.raises(RunError, match="lengths from 1"):
        read_trace(file)
