"""Choose a serving layout.

    minimise    devices, then time per token                       (least cost for the asked load)
    subject to  weights + keys and values + buffers <= memory      Engine.weights_bytes, .cached_bytes, .buffers_bytes
                percentiles <= SLO, keeps up with the rate         cost.load
                what the user wrote

Formats come in the order in which the user lists them: of two layouts with equally many devices the earlier format wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..cost.load import Load, Service, serve_closed, serve_open
from ..cost.serving import Engine, EngineShape
from .enumerate import divisors

if TYPE_CHECKING:
    from ...spec.serving import Serve, Slo, WeightDtype, Weights
    from ..ir.graph import Graph
    from ..topology.machine import Machine

MAX_BATCH = 512
"""Slots an engine has at most."""
LEAST_SLOTS = 8
"""Slots an engine has at least, where memory allows: arrivals come in bursts."""
CHUNKS = (512, 1024, 2048, 4096, 8192)
DEFAULT_CONCURRENCY = 8
"""Requests in flight where the spec states no load."""


@dataclass(frozen=True)
class Candidate:
    """A layout with what it does; `reason` says why it cannot be chosen, None that it can."""

    shape: EngineShape
    replicas: int
    max_batch: int
    prefill_chunk: int
    engine: Engine
    kv_tokens: int
    service: Service | None
    reason: str | None = None
    binding: str = ""

    @property
    def devices(self) -> int:
        return self.shape.devices * self.replicas


@dataclass
class ServeSearch:
    good: list[Candidate] = field(default_factory=list)
    bad: list[Candidate] = field(default_factory=list)
    skipped: list[tuple[str, int, int]] = field(default_factory=list)
    """(rule, degree, size) of shapes that cannot be."""


def search_serving(serve: Serve, graph: Graph, machine: Machine) -> ServeSearch:
    """All layouts, fewest devices first in `good`; in `bad` the nearest first."""
    found = ServeSearch()
    for shape in _shapes(serve, graph, machine, found):
        engine = Engine(graph, machine, shape)
        for candidate in _candidates(serve, engine, machine):
            (found.good if candidate.reason is None else found.bad).append(candidate)
    preference = {dtype: place for place, dtype in enumerate(serve.weights.dtype)}
    has_load = load_of(serve, replicas=1) is not None

    def cost(candidate: Candidate) -> tuple[float, ...]:
        assert candidate.service is not None
        order = preference[candidate.shape.weights]  # pyright: ignore[reportArgumentType]
        return (candidate.devices if has_load else 0, order, candidate.service.tpot_p50_s, candidate.shape.tp)

    found.good.sort(key=cost)
    found.bad.sort(
        key=lambda each: (each.service is None, -each.devices, _distance(each, serve.slo if has_load else None))
    )
    return found


def load_of(serve: Serve, *, replicas: int) -> Load | None:
    """A replica's share of the workload; None where the spec states no load."""
    workload = serve.workload
    if workload is None:
        return None
    asked = workload.input_tokens or max(1, serve.max_seq_len // 2)
    answered = workload.output_tokens or max(1, serve.max_seq_len // 4)
    rate = workload.requests_per_s / replicas if workload.requests_per_s is not None else None
    concurrency = workload.concurrency if workload.concurrency is not None else DEFAULT_CONCURRENCY
    return Load(asked, answered, requests_per_s=rate, concurrency=concurrency / replicas)


def _default_load(serve: Serve) -> Load:
    half = max(1, serve.max_seq_len // 4)
    return Load(half, half, requests_per_s=None, concurrency=DEFAULT_CONCURRENCY)


TOO_MANY = "more devices than there are"


def _shapes(serve: Serve, graph: Graph, machine: Machine, found: ServeSearch) -> Iterator[EngineShape]:
    layout = serve.layout
    heads, kv_heads = graph.sizes["H"], graph.sizes.get("K")
    for weights in _formats(serve.weights):
        for tp in (layout.tp,) if layout.tp else divisors(machine.num_devices, at_most=min(machine.domain, 64)):
            if heads % tp:
                found.skipped.append(("tp does not divide num_heads", tp, heads))
                continue
            if kv_heads is not None and kv_heads % tp and tp % kv_heads:
                found.skipped.append(("tp and num_kv_heads", tp, kv_heads))
                continue
            for pp in (layout.pp,) if layout.pp else (1, 2, 4):
                if pp > graph.num_layers:
                    found.skipped.append(("more stages than layers", pp, graph.num_layers))
                    continue
                devices = tp * pp * (layout.replicas or 1)
                if devices > machine.num_devices:
                    found.skipped.append((TOO_MANY, devices, machine.num_devices))
                    continue
                yield EngineShape(tp=tp, pp=pp, ep=layout.ep or 1, weights=weights, kv_dtype=serve.kv_cache.dtype)


def _candidates(serve: Serve, engine: Engine, machine: Machine) -> Iterator[Candidate]:
    """The fewest replicas of a shape that hold the SLO; or, with none, the most there can be."""
    shape, layout = engine.shape, serve.layout
    most = machine.num_devices // shape.devices
    load = load_of(serve, replicas=1)
    chunk = layout.prefill_chunk or _chunk(load or _default_load(serve), serve.max_seq_len, machine.kind)
    room = engine.constants.memory_fraction * machine.memory_bytes - engine.weights_bytes
    room -= engine.buffers_bytes(chunk=chunk, batch=layout.max_batch or 64)
    sequence = engine.cached_bytes(serve.max_seq_len)
    kv_tokens = max(0, int(room / engine.kv_bytes_per_token)) if engine.kv_bytes_per_token else 0
    if room < sequence:
        yield _no_room(engine, serve, machine, replicas=layout.replicas or 1, chunk=chunk)
        return
    capacity = _capacity(engine, load or _default_load(serve), room=room, block_tokens=serve.kv_cache.block_tokens)
    tried = (layout.replicas,) if layout.replicas else _replica_counts(most) if load is not None else (most,)
    last = None
    for replicas in tried:
        if replicas > most:
            break
        max_batch = layout.max_batch or capacity
        share = load_of(serve, replicas=replicas) or _default_load(serve)
        serve_load = serve_open if share.requests_per_s is not None else serve_closed
        service = serve_load(engine, share, max_batch=min(max_batch, capacity))  # more than fit wait
        if layout.max_batch is None:
            max_batch = min(capacity, max(LEAST_SLOTS, _round_up(service.batch_p99)))
        reason = _misses(service, serve.slo if load is not None else None)
        last = Candidate(
            shape,
            replicas,
            max_batch,
            chunk,
            engine,
            min(kv_tokens, max_batch * serve.max_seq_len),
            service,
            reason=reason and reason[0],
            binding=reason[1] if reason else "",
        )
        if reason is None:
            yield last
            return
    if last is not None:
        yield last


def _formats(weights: Weights) -> tuple[WeightDtype, ...]:
    """Formats to try. All methods move equally many bytes; `auto` is rounding to the nearest, the only other one so far."""
    assert weights.method in ("auto", "round_to_nearest")
    return weights.dtype


def _replica_counts(most: int) -> Iterator[int]:
    """1, 2, 3 … up to 16, then in steps of a sixteenth: the least that holds is wanted, not the exact count of hundreds."""
    count = 1
    while count <= most:
        yield count
        count += max(1, count // 16)


def _capacity(engine: Engine, load: Load, *, room: float, block_tokens: int) -> int:
    """Requests that fit: keys and values grow while an answer is written, so a request holds in + 0.6 · out on average.

    Its last block is half empty on average.
    """
    tokens = load.input_tokens + 0.6 * load.output_tokens + (block_tokens - 1) / 2
    return max(1, min(MAX_BATCH, int(room / engine.cached_bytes(tokens))))


def _chunk(load: Load, max_seq_len: int, kind: str) -> int:
    """Prompt tokens a step: whole prompts where they are short, so that products are long enough."""
    smallest = 128 if kind == "cpu" else CHUNKS[0]
    chunk = smallest
    while chunk < min(load.input_tokens, CHUNKS[2]):
        chunk *= 2
    return min(chunk, max_seq_len)


def _round_up(batch: float) -> int:
    """To a multiple of 8, of 4 or of 1, by size."""
    step = 8 if batch > 16 else 4 if batch > 4 else 1
    return max(1, -int(-batch // step) * step)


def _no_room(engine: Engine, serve: Serve, machine: Machine, *, replicas: int, chunk: int) -> Candidate:
    batch = serve.layout.max_batch or 1
    needs = (
        engine.weights_bytes + engine.cached_bytes(serve.max_seq_len) + engine.buffers_bytes(chunk=chunk, batch=batch)
    )
    usable = engine.constants.memory_fraction * machine.memory_bytes
    gib = 1024**3
    reason = f"needs {needs / gib:.1f} GiB of {usable / gib:.1f} GiB a device"
    binding = "weights" if engine.weights_bytes > needs / 2 else "kv_cache"
    return Candidate(engine.shape, replicas, batch, chunk, engine, 0, None, reason=reason, binding=binding)


def _misses(service: Service, slo: Slo | None) -> tuple[str, str] | None:
    """(sentence, objective) of what does not hold."""
    if not service.is_stable:
        return f"keeps up with {service.requests_per_s:.2f} requests/s a replica at most", "requests_per_s"
    if slo is None:
        return None
    for name, value in _percentiles(service).items():
        limit = getattr(slo, name)
        if limit is not None and value > limit:
            return f"{name} {value:.0f} ms, {limit:g} ms is asked", name
    return None


def _percentiles(service: Service) -> dict[str, float]:
    return {
        "ttft_p50_ms": service.ttft_p50_s * 1e3,
        "ttft_p99_ms": service.ttft_p99_s * 1e3,
        "tpot_p50_ms": service.tpot_p50_s * 1e3,
        "tpot_p99_ms": service.tpot_p99_s * 1e3,
    }


def _distance(candidate: Candidate, slo: Slo | None) -> float:
    """How far the worst objective is missed, as a ratio."""
    if candidate.service is None:
        return float("inf")
    ratios = [0.0 if candidate.service.is_stable else 10.0]
    for name, value in _percentiles(candidate.service).items():
        limit = getattr(slo, name) if slo is not None else None
        if limit is not None:
            ratios.append(value / limit)
    return max(ratios)
