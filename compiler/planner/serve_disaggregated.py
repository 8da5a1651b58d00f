"""Prefill on devices of its own: prompts and answers do not disturb each other, and keys and values travel between them.

    prefill replicas   ρ = λ · P₁ / n < 1, waiting as an M/D/1 queue            n grows until the first token holds
    decode replicas    TPOT = T_dec(b), b = λ · out · TPOT / m by Little's law  m grows until the time per token holds
    transfer           bytes of a prompt's keys and values over the network

Our server does not do it (yet): the layout is told beside the chosen one where it takes fewer devices, and never chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cost.load import TAIL, held_tokens
from .serve_search import load_of

if TYPE_CHECKING:
    from ...spec.serving import Serve
    from ..cost.serving import Engine
    from .serve_search import Candidate, ServeSearch

MAX_REPLICAS = 64
BUSIEST = 0.9
"""Of a prefill replica's time."""


@dataclass(frozen=True)
class Disaggregated:
    """So many engines for prompts, so many for answers, each of a shape."""

    prefill: Engine
    prefill_replicas: int
    decode: Engine
    decode_replicas: int
    ttft_p99_s: float
    tpot_p99_s: float

    @property
    def devices(self) -> int:
        return self.prefill.shape.devices * self.prefill_replicas + self.decode.shape.devices * self.decode_replicas

    def line(self) -> str:
        """As a report says it."""
        one, other = self.prefill.shape, self.decode.shape
        return (
            f"{self.devices} devices with prefill of its own: {self.prefill_replicas} × tp {one.tp} for prompts,"
            f" {self.decode_replicas} × tp {other.tp} for answers, {other.weights} weights: first token p99"
            f" {self.ttft_p99_s * 1e3:.0f} ms, each token {self.tpot_p99_s * 1e3:.0f} ms"
        )


def best_disaggregated(found: ServeSearch, asked: Serve) -> Disaggregated | None:
    """The fewest devices over pairs of the shapes that were searched; None without a rate, or where none holds."""
    load = load_of(asked, replicas=1)
    if load is None or load.requests_per_s is None:
        return None
    engines = {each.engine.shape: each for each in (*found.good, *found.bad) if each.service is not None}
    chosen = [each for each in engines.values() if each.shape.pp == 1]
    firsts = [(each.engine, entry) for each in chosen if (entry := _prefill(each.engine, asked, load.requests_per_s))]
    answers = [(each.engine, entry) for each in chosen if (entry := _decode(each, asked, load.requests_per_s))]
    best = None
    for prefill, (num_prefill, ttft_s) in firsts:
        for decode, (num_decode, tpot_s) in answers:
            if prefill.shape.weights != decode.shape.weights:
                continue
            pair = Disaggregated(prefill, num_prefill, decode, num_decode, ttft_s + tpot_s, tpot_s)
            if best is None or pair.devices < best.devices:
                best = pair
    return best


def _prefill(engine: Engine, asked: Serve, rate: float) -> tuple[int, float] | None:
    """The fewest replicas for prompts, with the 99th percentile of the first token."""
    load = load_of(asked, replicas=1)
    assert load is not None
    tokens, slo = round(load.input_tokens), asked.slo
    own = engine.prefill_s(tokens)
    moved = engine.cached_bytes(tokens) * engine.shape.tp
    link = engine.machine.slow if engine.machine.num_devices > engine.machine.domain else engine.machine.fast
    transfer = moved / (link.bytes_per_s * engine.shape.tp)
    limit = (slo.ttft_p99_ms or slo.ttft_p50_ms) if slo is not None else None
    for replicas in range(1, MAX_REPLICAS):
        busy = rate * own / replicas
        if busy >= BUSIEST:
            continue
        waiting = busy * own / (2 * (1 - busy)) * TAIL
        first = engine.software.first_token_s + own + waiting + transfer
        if limit is None or first * 1e3 <= limit:
            return replicas, first
    return None


def _decode(candidate: Candidate, asked: Serve, rate: float) -> tuple[int, float] | None:
    """The fewest replicas for answers, with the 99th percentile of the time per token."""
    engine, slo = candidate.engine, asked.slo
    load = load_of(asked, replicas=1)
    assert load is not None
    out, context = load.output_tokens, load.input_tokens + load.output_tokens / 2
    room = engine.constants.memory_fraction * engine.machine.memory_bytes - engine.weights_bytes
    room -= engine.buffers_bytes(chunk=1, batch=64)
    most = room / max(1.0, engine.cached_bytes(held_tokens(load)))
    limit = (slo.tpot_p99_ms or slo.tpot_p50_ms) if slo is not None else None
    for replicas in range(1, MAX_REPLICAS):
        batch = 1.0
        for _ in range(40):
            wanted = rate / replicas * out * engine.decode_step_s(batch, context=context)
            if wanted > most or abs(wanted - batch) < 0.01 * batch:
                break
            batch = (batch + max(1.0, wanted)) / 2
        late = batch + 2.33 * math.sqrt(batch)
        if late > most:
            continue
        tpot = engine.decode_step_s(late, context=context)
        if limit is None or tpot * 1e3 <= limit:
            return replicas, tpot
    return None
