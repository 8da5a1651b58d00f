"""Percentiles of one layout under the stated workload: the server's own scheduler on a virtual clock, with the model's step times.

The closed forms of cost/load.py sweep layouts; this plays the few that are left (runtimes/serving/simulation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isnan
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from ..cost.serving import Prompt
from .serve_trace import recorded

if TYPE_CHECKING:
    from ...runtimes.serving.arrivals import Arrival, ClosedLoop
    from ...runtimes.serving.simulation import Limits
    from ...spec.serving import Serve
    from ..cost.load import Load, Service
    from ..cost.serving import Engine
    from .serve_search import Candidate

MAX_CHUNKS = 32_000
"""Tokens and prompt parts that a simulation may plan."""
LEAST_REQUESTS, MOST_REQUESTS = 64, 1000
LENGTH_SPREAD = 0.25
"""Standard deviation of the logarithm of lengths, where the spec states means (assumed)."""
CONTEXT_STEP, BATCH_STEP = 128, 2
"""Steps whose mean context and batch agree to these are priced once."""


@dataclass(frozen=True)
class Simulated:
    """What a simulation saw."""

    service: Service
    requests: int


def simulate_layout(
    engine: Engine, serve: Serve, load: Load, service: Service, *, max_batch: int, chunk: int, kv_tokens: int
) -> Simulated | None:
    """A replica's percentiles; None where no request finished, or the replica cannot keep up and every figure would be the run's length."""
    from ...runtimes.serving.simulation import simulate

    if not service.is_stable and load.requests_per_s is not None:
        return None
    limits = _limits(engine, serve, max_batch=max_batch, chunk=chunk, kv_tokens=kv_tokens)
    report = simulate(_arrivals(serve, load), limits, step_time(engine))
    if not report.num_finished:
        return None
    first = engine.software.first_token_s
    return Simulated(
        service=replace(
            service,
            ttft_p50_s=report.ttft.p50_s + first,
            ttft_p99_s=report.ttft.p99_s + first,
            tpot_p50_s=report.tpot.p50_s,
            tpot_p99_s=report.tpot.p99_s,
            requests_per_s=load.requests_per_s or report.requests_per_s,
        ),
        requests=report.num_finished,
    )


def played_load(candidate: Candidate, serve: Serve, sent: Sequence[Arrival] | ClosedLoop) -> dict[str, float]:
    """What a load that is sent to a layout's replicas would see, one of which is played with an even share of it.

    Named as in a plan, whose own figures are of the workload that the spec states: as many requests, as they may come. A sample of a hundred
    has another mean rate and other lengths, and other percentiles.
    """
    from ...runtimes.serving.simulation import simulate

    count, engine = candidate.replicas, candidate.engine
    sizes = {"max_batch": candidate.max_batch, "chunk": candidate.prefill_chunk, "kv_tokens": candidate.kv_tokens}
    report = simulate(_share(sent, count), _limits(engine, serve, **sizes), step_time(engine))
    if not report.num_finished:
        return {}
    first = engine.software.first_token_s
    found = {
        f"{name}_{percentile}_ms": (getattr(values, f"{percentile}_s") + later_s) * 1e3
        for name, values, later_s in (
            ("ttft", report.ttft, first),
            ("tpot", report.tpot, 0.0),
            ("e2e", report.e2e, first),
        )
        for percentile in ("p50", "p90", "p99")
    }
    rates = {"output_tokens_per_s": report.output_tokens_per_s, "requests_per_s": report.requests_per_s}
    return {name: value for name, value in found.items() if not isnan(value)} | {
        name: rate * count for name, rate in rates.items()
    }


def _share(sent: Sequence[Arrival] | ClosedLoop, replicas: int) -> Sequence[Arrival] | ClosedLoop:
    """Of one replica."""
    if isinstance(sent, Sequence):
        return sent[::replicas]
    return replace(sent, concurrency=-(-sent.concurrency // replicas), requests=sent.requests[::replicas])


def _limits(engine: Engine, serve: Serve, *, max_batch: int, chunk: int, kv_tokens: int) -> Limits:
    from ...runtimes.serving.simulation import Limits

    return Limits(
        max_batch=max_batch,
        max_seq_len=serve.max_seq_len,
        prefill_chunk=chunk,
        kv_tokens=max(kv_tokens, serve.max_seq_len),
        stages=engine.shape.pp,
    )


def _arrivals(serve: Serve, load: Load) -> Sequence[Arrival] | ClosedLoop:
    """The workload's requests, as many as can be played in a moment; seeded, so that a plan stays the same."""
    from ...runtimes.serving.arrivals import closed_loop, fixed, poisson, varied

    asked, answered = round(load.input_tokens), max(1, round(load.output_tokens))
    longest = serve.max_seq_len
    workload = serve.workload
    num_requests = int(min(MOST_REQUESTS, max(LEAST_REQUESTS, MAX_CHUNKS / answered)))
    if workload is not None and workload.trace is not None and workload.requests_per_s and load.requests_per_s:
        share = round(workload.requests_per_s / load.requests_per_s)  # of the replicas, each has one in so many
        return recorded(FilePath(workload.trace))[::share][:num_requests]
    lengths = varied(asked, answered, spread=LENGTH_SPREAD, longest=longest)
    if load.is_static:
        return closed_loop(
            round(load.concurrency), num_requests=round(load.concurrency), lengths=fixed(asked, answered)
        )
    if load.requests_per_s is not None:
        return poisson(load.requests_per_s, num_requests=num_requests, lengths=lengths)
    concurrency = max(1, round(load.concurrency))
    stated = load.requests or 10 * concurrency
    return closed_loop(concurrency, num_requests=max(concurrency, min(num_requests, stated)), lengths=lengths)


def step_time(engine: Engine):
    """Seconds of a step from what the scheduler planned: (tokens, tokens of the same request that are cached) each."""

    @lru_cache(maxsize=8192)
    def priced(decoding: int, context: int, prompts: tuple[tuple[int, int], ...]) -> float:
        return engine.mixed_step_s(
            decoding, context=context, prompts=[Prompt(tokens, cached) for tokens, cached in prompts]
        )

    def seconds(work: Sequence[tuple[int, int]]) -> float:
        decoding = cached = 0
        prompts = []
        for tokens, before in work:
            if tokens == 1 and before:
                decoding, cached = decoding + 1, cached + before
            else:
                prompts.append((-(-tokens // 32) * 32, -(-before // CONTEXT_STEP) * CONTEXT_STEP))
        context = max(1, round(cached / max(decoding, 1) / CONTEXT_STEP)) * CONTEXT_STEP
        return priced(-(-decoding // BATCH_STEP) * BATCH_STEP, context, tuple(sorted(prompts)))

    return seconds
