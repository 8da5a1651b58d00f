"""Limits of a server that follow from its plan, each with the inequality that it comes from.

weights + max_batch · tokens · bytes_per_token + buffers <= memory                     max_batch, kv_cache_tokens
ttft + waiting_tokens / prefill_rate <= ttft_slo                                       max_queued_tokens
waiting <= max_batch                                                                   max_queued_requests
ttft + waiting_steps · tpot <= ttft_slo                                                max_wait_steps

A step takes the 99th percentile of the time per token, so that the bound is on the safe side; the scheduler tells how many steps a
request would wait. These are the numbers that the server goes by (lower/serving.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec.units import GIB
from .plan import ServeLimit

if TYPE_CHECKING:
    from ...spec.serving import Serve
    from .serve_search import Candidate


def limits_of(candidate: Candidate, serve: Serve) -> tuple[ServeLimit, ...]:
    """Of one replica."""
    service, engine = candidate.service, candidate.engine
    assert service is not None
    limits = [_cache(candidate), _batch(candidate)]
    slo = serve.slo
    asked_ms = (slo.ttft_p99_ms or slo.ttft_p50_ms) if slo is not None else None
    if asked_ms is None:
        return tuple(limits)
    prompt = round(candidate.load.input_tokens)
    prefill_s = engine.prefill_s(prompt)
    rate = prompt / max(prefill_s, 1e-9)
    tokens = int(max(0.0, asked_ms / 1e3 - prefill_s) * rate)
    limits.append(
        ServeLimit(
            name="max_queued_tokens",
            value=tokens,
            inequality=(
                f"max_queued_tokens <= (ttft_slo - prefill) * prefill_rate = ({asked_ms:g} ms - {prefill_s * 1e3:.3g} ms)"
                f" * {rate:,.0f} tokens/s = {tokens:,}"
            ),
        )
    )
    limits.append(
        ServeLimit(
            name="max_queued_requests",
            value=candidate.max_batch,
            inequality=f"max_queued_requests <= max_batch = {candidate.max_batch}: when all answers end together, so many begin",
        )
    )
    steps = int(max(0.0, asked_ms / 1e3 - service.ttft_p50_s) / service.tpot_p99_s)
    limits.append(
        ServeLimit(
            name="max_wait_steps",
            value=steps,
            inequality=(
                f"max_wait_steps <= (ttft_slo - ttft) / tpot = ({asked_ms:g} ms - {service.ttft_p50_s * 1e3:.3g} ms)"
                f" / {service.tpot_p99_s * 1e3:.3g} ms = {steps:,}"
            ),
        )
    )
    return tuple(limits)


def _cache(candidate: Candidate) -> ServeLimit:
    engine = candidate.engine
    memory = engine.constants.memory_fraction * engine.machine.memory_bytes
    buffers = candidate.buffers_bytes
    room = (
        int((memory - engine.weights_bytes - buffers) / engine.kv_bytes_per_token) if engine.kv_bytes_per_token else 0
    )
    return ServeLimit(
        name="kv_cache_tokens",
        value=candidate.kv_tokens,
        inequality=(
            f"kv_cache_tokens <= (memory - weights - buffers) / bytes_per_token = ({memory / GIB:.1f} GiB -"
            f" {engine.weights_bytes / GIB:.1f} GiB - {buffers / GIB:.1f} GiB) / {engine.kv_bytes_per_token / 1024:,.1f} KiB"
            f" = {room:,}"
        ),
    )


def _batch(candidate: Candidate) -> ServeLimit:
    from ..cost.load import held_tokens

    held = held_tokens(candidate.load)
    return ServeLimit(
        name="max_batch",
        value=candidate.max_batch,
        inequality=(
            f"max_batch * (in + 0.6 out) <= kv_cache_tokens: {candidate.max_batch} * {held:,.0f} ="
            f" {candidate.max_batch * held:,.0f} <= {candidate.kv_tokens:,}"
        ),
    )
