"""What a replica does under a load, in closed form.

Under an open loop of λ requests/s a replica, prompts take the share ρ = λ · P of its time (P: what one costs the others), and b
requests are decoded together, by Little's law b = λ · out · TPOT:

    TPOT = T_dec(b) / (1 − ρ)                          TTFT = first token + P₁ + steps until it is taken + waiting
    waiting (M/D/1) = ρ · P / (2 (1 − ρ)), its 99th percentile ln(100) times that (assumed)
    99th percentiles: long prompts, short answers, and the batch and the prompts that come meanwhile at +2.33 standard deviations

Closed loop of b requests: TPOT = T_dec(b) + (b − 1) · P / (out − 1), TTFT = first token + P₁ + steps until it is taken + w · (b − 1)
· P / 2 (the first burst: w is 1 / requests a slot) + queueing behind the prompts of others. A static batch: TTFT = all its prompts,
TPOT = T_dec(b). P₁ is a whole prompt alone. Closed forms rank layouts; percentiles of a stated workload come from simulation
(planner/serve_simulation.py). Structure after AIConfigurator and Dynamo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .serving import Engine

TAIL = math.log(100)
"""Of an exponential tail: 99th percentile over mean."""
LATE = 2.33
"""Standard deviations to a 99th percentile."""
LONG_PROMPT, SHORT_ANSWER = 1.6, 0.6
"""Lengths that scatter by a quarter (assumed): the 99th percentile of prompts and the first of answers, over the mean."""
CACHED_OUTPUT = 0.6
"""Of an answer, what a request holds on average while it is written: short ones leave early."""
MAX_SOLVE = 60


@dataclass(frozen=True)
class Load:
    """What one replica is asked to do."""

    input_tokens: float
    output_tokens: float
    requests_per_s: float | None
    """Open loop; None: closed."""
    concurrency: float
    """Closed loop: requests in flight. Static: the batch."""
    requests: int | None = None
    """Closed loop: requests in all, where somebody says it."""
    is_static: bool = False
    own_prompts: float = 1.0
    """Share of a prompt that no prefix cache holds."""
    slot_wait: float = 0.0
    """Share of a request's whole time that it waits for a slot."""


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

    def output_tokens_per_s(self, load: Load) -> float:
        return self.requests_per_s * load.output_tokens


def serve(engine: Engine, load: Load, *, max_batch: float) -> Service:
    """By the kind of load."""
    if load.requests_per_s is not None:
        return serve_open(engine, load, max_batch=max_batch)
    return serve_static(engine, load) if load.is_static else serve_closed(engine, load, max_batch=max_batch)


def serve_open(engine: Engine, load: Load, *, max_batch: float) -> Service:
    """Poisson arrivals at `load.requests_per_s`."""
    assert load.requests_per_s is not None
    rate, out = load.requests_per_s, max(2.0, load.output_tokens)
    context = load.input_tokens + out / 2
    own = engine.prefill_s(round(load.input_tokens))
    batch, tpot, prompt, busy = 1.0, 0.0, own, 0.0
    for _ in range(MAX_SOLVE):
        prompt = load.own_prompts * engine.prompt_cost_s(round(load.input_tokens), batch=min(batch, max_batch))
        busy = rate * prompt
        if busy >= 0.95:
            return _overloaded(engine, load, max_batch=max_batch)
        tpot = engine.decode_step_s(min(batch, max_batch), context=context) / (1 - busy)
        wanted = rate * out * tpot
        if abs(wanted - batch) < 0.01 * batch:
            break
        batch = (batch + wanted) / 2
    if batch >= max_batch:
        return _overloaded(engine, load, max_batch=max_batch)
    batch_p99 = batch + LATE * math.sqrt(batch)
    stages = engine.shape.pp  # as many streams, in each of which a prompt takes that much longer
    prompts = batch + LATE * math.sqrt(batch * stages / SHORT_ANSWER)  # that come while a short answer is written
    late = engine.decode_step_s(min(batch_p99, max_batch), context=context)
    tpot_p99 = late + prompts * prompt / out
    waiting = busy * prompt * stages / (2 * (1 - busy))
    first = engine.software.first_token_s + own + _steps_before(engine, others=batch) * tpot
    return Service(
        ttft_p50_s=first + waiting * math.log(2),
        ttft_p99_s=first + (LONG_PROMPT - 1) * own + waiting * TAIL * LONG_PROMPT,
        tpot_p50_s=tpot,
        tpot_p99_s=max(tpot, tpot_p99),
        requests_per_s=rate,
        batch=batch,
        batch_p99=batch_p99,
        is_stable=batch_p99 <= max_batch,
    )


def serve_closed(engine: Engine, load: Load, *, max_batch: float) -> Service:
    """`load.concurrency` requests in flight at all times."""
    out, asked = max(2.0, load.output_tokens), max(1.0, load.concurrency)
    batch = min(asked, float(max_batch))
    own = engine.prefill_s(round(load.input_tokens))
    prompt = load.own_prompts * engine.prompt_cost_s(round(load.input_tokens), batch=batch)
    step = engine.decode_step_s(batch, context=load.input_tokens + out / 2)
    tpot = step + (batch - 1) * prompt / (out - 1)
    burst = _first_burst(engine, load, asked) * (batch - 1) * prompt / 2
    if engine.software.prefill_share is None:
        steps = _steps_before(engine, others=batch - 1) * step
        cycle = engine.software.first_token_s + own + tpot * (out - 1)
        busy = min(0.9, (batch - 1) * prompt / cycle)
        waiting = steps + burst + engine.constants.queueing * busy * prompt / (2 * (1 - busy))
    else:  # prompts are let in together, when the running batch allows it
        waiting = engine.software.wait_steps * tpot * (batch - 1) / (batch + 5)
    first = engine.software.first_token_s + own + waiting
    queued = max(0.0, asked / batch - 1) * tpot * out
    first += queued + load.slot_wait * (first + tpot * (out - 1))
    return Service(
        ttft_p50_s=first,
        ttft_p99_s=first + (batch - 1) * prompt / 2,
        tpot_p50_s=tpot,
        tpot_p99_s=1.1 * tpot,
        requests_per_s=asked / (first + tpot * (out - 1)),
        batch=batch,
        batch_p99=batch,
        is_stable=asked <= max_batch,
    )


def _steps_before(engine: Engine, *, others: float) -> float:
    """Steps that pass until a prompt is taken: few other requests are seldom in the way."""
    return engine.software.wait_steps * others / (others + 2)


def _first_burst(engine: Engine, load: Load, asked: float) -> float:
    """Of the requests, how many are in the burst with which a closed loop begins."""
    return min(1.0, asked / load.requests) if load.requests else engine.constants.first_burst


def serve_static(engine: Engine, load: Load) -> Service:
    """One batch that starts together: all prompts, then one token a step for all."""
    out, batch = max(2.0, load.output_tokens), max(1, round(load.concurrency))
    first = engine.prefill_s(round(load.input_tokens), prompts=batch)
    if engine.software.name == "neuron":
        first += engine.software.first_token_s
    tpot = engine.decode_step_s(batch, context=load.input_tokens + out / 2)
    return Service(
        ttft_p50_s=first,
        ttft_p99_s=first,
        tpot_p50_s=tpot,
        tpot_p99_s=tpot,
        requests_per_s=batch / (first + (out - 1) * tpot),
        batch=batch,
        batch_p99=batch,
        is_stable=True,
    )


def held_tokens(load: Load) -> float:
    """Tokens of a request that are in the cache on average."""
    return load.input_tokens + CACHED_OUTPUT * load.output_tokens


def _overloaded(engine: Engine, load: Load, *, max_batch: float) -> Service:
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
