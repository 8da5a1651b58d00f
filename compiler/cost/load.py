"""What a replica does under a load, in closed form.

Under an open loop of λ requests/s a replica, prefill takes the share ρ = λ · P of its time (P: one prompt), and b requests
are decoded together, by Little's law b = λ · out · TPOT:

    TPOT = T_dec(b) / (1 − ρ)                          TTFT = first token + P + 2 steps + waiting
    waiting (M/D/1) = ρ · P / (2 (1 − ρ)), its 99th percentile ln(100) times that (assumed)

Closed loops of b requests: TPOT = T_dec(b) + (b − 1) · P / (out − 1), TTFT as above with w · (b − 1) · P / 2 of waiting.
Closed forms rank layouts; percentiles of a stated workload want a simulation. Structure after AIConfigurator and Dynamo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .serving import Engine

FIRST_BURST = 0.16
"""w: share of the requests of a closed loop that arrive together (fitted on published serving rows)."""
TAIL = math.log(100)
"""Of an exponential tail: 99th percentile over mean."""


@dataclass(frozen=True)
class Load:
    """What one replica is asked to do."""

    input_tokens: int
    output_tokens: int
    requests_per_s: float | None
    """Open loop; None: closed."""
    concurrency: float
    """Closed loop: requests in flight."""


@dataclass(frozen=True)
class Service:
    """What one replica does under a load. Seconds."""

    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    requests_per_s: float
    batch: float
    """Requests decoded together on average."""
    batch_p99: float
    is_stable: bool
    """Whether it keeps up."""


MAX_SOLVE = 60


def serve_open(engine: Engine, load: Load, *, max_batch: int) -> Service:
    """Poisson arrivals at `load.requests_per_s`."""
    assert load.requests_per_s is not None
    rate, out = load.requests_per_s, max(2, load.output_tokens)
    context = load.input_tokens + out / 2
    prompt = engine.prefill_s(load.input_tokens) - engine.constants.step_s
    busy = rate * prompt
    if busy >= 0.95:
        return _overloaded(engine, load, max_batch=max_batch)
    batch = 1.0
    for _ in range(MAX_SOLVE):
        tpot = engine.decode_step_s(min(batch, max_batch), context=context) / (1 - busy)
        wanted = rate * out * tpot
        if abs(wanted - batch) < 0.01 * batch:
            break
        batch = (batch + wanted) / 2
    if batch >= max_batch:
        return _overloaded(engine, load, max_batch=max_batch)
    tpot = engine.decode_step_s(batch, context=context) / (1 - busy)
    batch_p99 = batch + 2.33 * math.sqrt(batch)
    late = engine.decode_step_s(min(batch_p99, max_batch), context=context) / (1 - busy)
    prompts = batch + 2.33 * math.sqrt(batch)
    tpot_p99 = max(late, engine.decode_step_s(batch, context=context) + prompts * prompt / out)
    waiting = busy * prompt / (2 * (1 - busy))
    first = engine.constants.first_token_s + prompt + 2 * tpot
    return Service(
        ttft_p50_s=first + waiting * math.log(2),
        ttft_p99_s=first + waiting * TAIL,
        tpot_p50_s=tpot,
        tpot_p99_s=tpot_p99,
        requests_per_s=rate,
        batch=batch,
        batch_p99=batch_p99,
        is_stable=batch_p99 <= max_batch,
    )


def serve_closed(engine: Engine, load: Load, *, max_batch: int) -> Service:
    """`load.concurrency` requests in flight at all times."""
    out, asked = max(2, load.output_tokens), max(1.0, load.concurrency)
    batch = min(asked, float(max_batch))
    context = load.input_tokens + out / 2
    prompt = engine.prefill_s(load.input_tokens) - engine.constants.step_s
    step = engine.decode_step_s(batch, context=context)
    tpot = step + (batch - 1) * prompt / (out - 1)
    first = engine.constants.first_token_s + prompt + 2 * step + FIRST_BURST * (batch - 1) * prompt / 2
    queued = max(0.0, asked / batch - 1) * tpot * out
    total = first + queued + tpot * (out - 1)
    return Service(
        ttft_p50_s=first + queued,
        ttft_p99_s=first + queued + (batch - 1) * prompt / 2,
        tpot_p50_s=tpot,
        tpot_p99_s=1.1 * tpot,
        requests_per_s=asked / total,
        batch=batch,
        batch_p99=batch,
        is_stable=asked <= max_batch,
    )


def _overloaded(engine: Engine, load: Load, *, max_batch: int) -> Service:
    """It falls behind: what it does with every slot taken. Waiting grows without bound; at least one whole answer of it."""
    closed = Load(load.input_tokens, load.output_tokens, requests_per_s=None, concurrency=float(max_batch))
    served = serve_closed(engine, closed, max_batch=max_batch)
    return Service(
        ttft_p50_s=served.ttft_p50_s + served.tpot_p50_s * load.output_tokens,
        ttft_p99_s=served.ttft_p99_s + served.tpot_p99_s * load.output_tokens,
        tpot_p50_s=served.tpot_p50_s,
        tpot_p99_s=served.tpot_p99_s,
        requests_per_s=served.requests_per_s,
        batch=float(max_batch),
        batch_p99=float(max_batch),
        is_stable=False,
    )
