"""When requests come and how long they are: the loads that a benchmark sends and a simulation plays. Seeded, no clock."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import RunError

Lengths = Callable[[random.Random], tuple[int, int]]
"""Draws (input tokens, output tokens) of one request."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of an open loop: it comes at its time, whatever became of the others."""

    time_s: float
    input_tokens: int
    output_tokens: int
    priority: int = 0  # higher goes first
    prefix: int = 0  # requests of one prefix begin with the same `prefix_tokens` tokens
    prefix_tokens: int = 0


@dataclass(frozen=True)
class ClosedLoop:
    """`concurrency` clients, each of which sends its next request when it has its answer, until all are sent.

    With as many requests as clients this is one static batch.
    """

    concurrency: int
    requests: Sequence[tuple[int, int]]  # (input tokens, output tokens)


def fixed(input_tokens: int, output_tokens: int) -> Lengths:
    """Every request has these lengths."""
    return lambda rng: (input_tokens, output_tokens)


def varied(input_tokens: int, output_tokens: int, *, spread: float = 0.5, longest: int | None = None) -> Lengths:
    """Log-normal lengths with these means; `spread` is the standard deviation of their logarithm.

    Args:
        longest: prompt and answer together; what a draw has beyond is cut, from the answer first.
    """

    def draw(rng: random.Random) -> tuple[int, int]:
        num_input, num_output = (
            max(1, round(rng.lognormvariate(math.log(mean) - spread**2 / 2, spread)))
            for mean in (input_tokens, output_tokens)
        )
        if longest is not None:
            num_input = min(num_input, longest - 1)
            num_output = min(num_output, longest - num_input)
        return num_input, num_output

    return draw


def poisson(requests_per_s: float, *, num_requests: int, lengths: Lengths, seed: int = 0) -> list[Arrival]:
    """Independent users: exponential gaps."""
    return bursts(requests_per_s, burst=1, num_requests=num_requests, lengths=lengths, seed=seed)


def bursts(requests_per_s: float, *, burst: int, num_requests: int, lengths: Lengths, seed: int = 0) -> list[Arrival]:
    """`burst` requests at once, with exponential gaps between bursts so that the mean rate is `requests_per_s`."""
    rng, time_s, found = random.Random(seed), 0.0, []
    for number in range(num_requests):
        if number % burst == 0:
            time_s += rng.expovariate(requests_per_s / burst)
        found.append(Arrival(time_s, *lengths(rng)))
    return found


def closed_loop(concurrency: int, *, num_requests: int, lengths: Lengths, seed: int = 0) -> ClosedLoop:
    rng = random.Random(seed)
    return ClosedLoop(concurrency, [lengths(rng) for _ in range(num_requests)])


def static_batch(size: int, *, lengths: Lengths, seed: int = 0) -> ClosedLoop:
    """All start together."""
    return closed_loop(size, num_requests=size, lengths=lengths, seed=seed)


def read_trace(file: Path) -> list[Arrival]:
    """A .jsonl of recorded requests, one a line: {"time_s": 0.25, "input_tokens": 900, "output_tokens": 120}."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            found.append(_arrival(line, where=f"{file}:{number}"))
    return sorted(found, key=lambda arrival: arrival.time_s)


def _arrival(line: str, *, where: str) -> Arrival:
    try:
        values = json.loads(line)
        arrival = Arrival(float(values["time_s"]), int(values["input_tokens"]), int(values["output_tokens"]))
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{where} is not a recorded request: {error!r}", help=read_trace.__doc__ or "") from error
    if arrival.time_s < 0 or arrival.input_tokens < 1 or arrival.output_tokens < 1:
        raise RunError(f"{where}: times are from 0 and lengths from 1", help=read_trace.__doc__ or "")
    return arrival
