"""Choose a serving layout.

    minimise    devices, then time per token                       (least cost for the asked load)
    subject to  weights + keys and values + buffers <= memory      Engine.weights_bytes, .cached_bytes, .buffers_bytes
                percentiles <= SLO, keeps up with the rate         cost.load in the sweep, serve_simulation.py for finalists
                what the user wrote

over weights' format × tp × pp × ep × replicas × batch × prefill chunk. Formats come in the order in which the user lists them: of
two layouts with equally many devices the earlier format wins, then the one without stages. Prefill on devices of its own:
serve_disaggregated.py.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..cost.load import Load, Service, held_tokens, serve
from ..cost.serving import Engine, EngineShape, KeptBits
from ..kernels.weight_only_linear import BITS, LOSSLESS_BITS, bits_of, group_of, head_bits_of
from .enumerate import divisors

if TYPE_CHECKING:
    from ...spec.serving import Serve, Slo, WeightDtype, Weights
    from ..ir.graph import Graph
    from ..topology.machine import Machine

MAX_BATCH = 512
"""Slots an engine has at most."""
LEAST_SLOTS = 8
"""Slots an engine has at least, where memory allows: arrivals come in bursts."""
SPARE_SLOTS = 1.5
"""Over the 99th percentile of the requests in flight."""
CHUNKS = (512, 1024, 2048, 4096, 8192)
LEAST_CHUNK = 64
PROMPTS_SHARE = 0.15
"""Of a device's memory, that a piece of a prompt may take."""
STAGES = (1, 2, 4)
MAX_TP = 64
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
    max_seq_len: int
    load: Load
    """Of one replica."""
    service: Service | None
    reason: str | None = None
    binding: str = ""
    simulated_requests: int | None = None
    """How many requests the percentiles are over, where they come from a simulation."""

    @property
    def devices(self) -> int:
        return self.shape.devices * self.replicas

    @property
    def buffers_bytes(self) -> float:
        return self.engine.buffers_bytes(chunk=self.prefill_chunk, batch=self.max_batch, keys=self.max_seq_len)


@dataclass
class ServeSearch:
    good: list[Candidate] = field(default_factory=list)
    bad: list[Candidate] = field(default_factory=list)
    left_out: list[Candidate] = field(default_factory=list)
    """What would be good, and has no program yet: `reason` says what of it."""
    skipped: list[tuple[str, int, int]] = field(default_factory=list)
    """(rule, degree, size) of shapes that cannot be."""


Refusal = Callable[[EngineShape], str | None]
"""What stands against a program of a shape, in words."""
NO_PROGRAM = "program"
"""What binds a layout that is left out for that."""


HasKernels = Callable[[EngineShape], bool]
"""Whether the server of a shape consists of our kernels."""


def search_serving(
    asked: Serve,
    graph: Graph,
    machine: Machine,
    *,
    refusal: Refusal | None = None,
    has_kernels: HasKernels | None = None,
) -> ServeSearch:
    """All layouts, fewest devices first in `good`; in `bad` the nearest first. Good are those that `refusal` says nothing of."""
    found = ServeSearch()
    alike: dict[EngineShape, Engine] = {}
    for plain in _shapes(asked, graph, machine, found):
        ours = has_kernels is not None and has_kernels(plain)
        kept = kept_bits(asked.weights, plain.weights, kind=machine.kind, has_kernels=ours)
        shape = replace(plain, has_kernels=ours, kept=kept)
        engine = Engine(graph, machine, shape, alike=alike.get(replace(shape, pp=1)))
        alike.setdefault(replace(shape, pp=1), engine)
        refused = refusal(shape) if refusal is not None else None
        for candidate in _candidates(asked, engine, machine):
            if candidate.reason is not None:
                found.bad.append(candidate)
            elif refused is not None:
                found.left_out.append(replace(candidate, reason=refused, binding=NO_PROGRAM))
            else:
                found.good.append(candidate)
    for kept in (found.good, found.left_out):
        kept.sort(key=lambda each: cost_of(each, asked))
    slo = asked.slo if load_of(asked, replicas=1) is not None else None
    found.bad.sort(key=lambda each: (each.service is None, -each.devices, _distance(each, slo)))
    return found


def cost_of(candidate: Candidate, asked: Serve) -> tuple[float, ...]:
    """What a choice is made by, smallest first."""
    assert candidate.service is not None
    order = asked.weights.dtype.index(candidate.shape.weights)  # pyright: ignore[reportArgumentType]
    devices = candidate.devices if load_of(asked, replicas=1) is not None else 0
    shape = candidate.shape
    return (devices, order, shape.pp > 1, candidate.service.tpot_p50_s, shape.tp, shape.ep)


def load_of(asked: Serve, *, replicas: int) -> Load | None:
    """A replica's share of the workload; None where the spec states no load."""
    workload = asked.workload
    if workload is None:
        return None
    rate = workload.requests_per_s / replicas if workload.requests_per_s is not None else None
    concurrency = workload.concurrency if workload.concurrency is not None else DEFAULT_CONCURRENCY
    requests = max(1, round(workload.requests / replicas)) if workload.requests is not None else None
    return Load(
        workload.input_tokens or max(1, asked.max_seq_len // 2),
        workload.output_tokens or max(1, asked.max_seq_len // 4),
        requests_per_s=rate,
        concurrency=concurrency / replicas,
        requests=requests,
        is_static=workload.arrival == "static",
    )


def _default_load(asked: Serve) -> Load:
    """No more in flight than there are slots for."""
    half = max(1, asked.max_seq_len // 4)
    return Load(
        half, half, requests_per_s=None, concurrency=min(DEFAULT_CONCURRENCY, asked.layout.max_batch or math.inf)
    )


TOO_MANY = "more devices than there are"


def _shapes(asked: Serve, graph: Graph, machine: Machine, found: ServeSearch) -> Iterator[EngineShape]:
    layout = asked.layout
    heads, kv_heads = graph.sizes["H"], graph.sizes.get("K")
    for weights in _formats(asked.weights):
        for tp in (layout.tp,) if layout.tp else divisors(machine.num_devices, at_most=min(machine.domain, MAX_TP)):
            if heads % tp:
                found.skipped.append(("tp does not divide num_heads", tp, heads))
                continue
            if kv_heads is not None and kv_heads % tp and tp % kv_heads:
                found.skipped.append(("tp and num_kv_heads", tp, kv_heads))
                continue
            for pp in (layout.pp,) if layout.pp else STAGES:
                if pp > graph.num_layers:
                    found.skipped.append(("more stages than layers", pp, graph.num_layers))
                    continue
                devices = tp * pp * (layout.replicas or 1)
                if devices > machine.num_devices:
                    found.skipped.append((TOO_MANY, devices, machine.num_devices))
                    continue
                for ep in _expert_degrees(asked, graph, tp=tp, found=found):
                    rounds, kept = asked.weights.activations is not None and weights in BITS, asked.kv_cache.dtype
                    yield EngineShape(tp, pp, ep, weights, kept, rounds_activations=rounds)


def _expert_degrees(asked: Serve, graph: Graph, *, tp: int, found: ServeSearch) -> Iterator[int]:
    """Ways to split experts over the tp ranks: by width, by expert, or both."""
    num_experts = graph.sizes.get("E")
    if asked.layout.ep is not None:
        ep = asked.layout.ep
        if num_experts is not None and (num_experts % ep or tp % ep):
            found.skipped.append(("ep divides num_experts and tp", ep, num_experts if num_experts % ep else tp))
            return
        yield ep
        return
    yield 1
    if num_experts is not None and tp > 1 and num_experts % tp == 0:
        yield tp


def _candidates(asked: Serve, engine: Engine, machine: Machine) -> Iterator[Candidate]:
    """The fewest replicas of a shape that hold the SLO; or, with none, the most there can be."""
    most = machine.num_devices // engine.shape.devices
    if asked.layout.replicas:
        counts = [asked.layout.replicas] if asked.layout.replicas <= most else []
    else:
        counts = [most] if load_of(asked, replicas=1) is None else list(_replica_counts(most))
    if not counts:
        return
    tried: dict[int, Candidate] = {}

    def holds(replicas: int) -> bool:
        """Or is as good as it gets: what has no room with few replicas has none with many."""
        found = tried[replicas] = candidate_of(asked, engine, replicas=replicas)
        return found.reason is None or found.service is None

    place = bisect_left(counts, True, hi=len(counts) - 1, key=holds)  # more replicas have less to do each
    yield tried.get(counts[place]) or candidate_of(asked, engine, replicas=counts[place])


def candidate_of(asked: Serve, engine: Engine, *, replicas: int) -> Candidate:
    """So many replicas of a shape: what they hold and do."""
    layout, machine = asked.layout, engine.machine
    load = load_of(asked, replicas=replicas)
    chunk = layout.prefill_chunk or _chunk(load or _default_load(asked), asked.max_seq_len, engine)
    room = engine.constants.memory_fraction * machine.memory_bytes - engine.weights_bytes
    room -= engine.buffers_bytes(chunk=chunk, batch=layout.max_batch or 64, keys=asked.max_seq_len)
    if room < engine.cached_bytes(asked.max_seq_len):
        return _no_room(engine, asked, machine, replicas=replicas, chunk=chunk)
    share = load or _default_load(asked)
    kv_tokens = max(0, int(room / engine.kv_bytes_per_token)) if engine.kv_bytes_per_token else 0
    capacity = _capacity(engine, share, room=room, block_tokens=asked.kv_cache.block_tokens)
    max_batch = layout.max_batch or capacity
    service = serve(engine, share, max_batch=min(max_batch, capacity))  # more than fit wait
    if (
        layout.max_batch is None
    ):  # slots cost nothing until they are used; without one, a request waits for a whole answer
        max_batch = min(capacity, max(LEAST_SLOTS, _round_up(SPARE_SLOTS * service.batch_p99)))
    missed = misses(service, asked.slo if load is not None else None)
    return Candidate(
        engine.shape,
        replicas,
        max_batch,
        chunk,
        engine,
        min(kv_tokens, max_batch * asked.max_seq_len),
        asked.max_seq_len,
        share,
        service,
        reason=missed[0] if missed else None,
        binding=missed[1] if missed else "",
    )


def _formats(weights: Weights) -> tuple[WeightDtype, ...]:
    """Formats to try. All methods move equally many bytes; `auto` is rounding to the nearest, the only other one so far."""
    assert weights.method in ("auto", "round_to_nearest")
    return weights.dtype


def kept_bits(asked: Weights, label: str, *, kind: str, has_kernels: bool = False) -> KeptBits | None:
    """What our program keeps of a weight on a CPU, in few bits or, where it `has_kernels`, in bf16; and anyone's in groups of a stated size."""
    if label == "bf16" and has_kernels:
        return KeptBits(LOSSLESS_BITS, LOSSLESS_BITS)
    bits = BITS.get(label)
    if bits is None or (kind != "cpu" and asked.group is None):
        return None
    layers = bits_of(bits, group=group_of(asked, bits), has_offset=bits == 4 and not asked.symmetric)
    return KeptBits(layers, head_bits_of(asked, bits) if kind == "cpu" else 16.0)


def _replica_counts(most: int) -> Iterator[int]:
    """1, 2, 3 … up to 16, then in steps of a sixteenth: the least that holds is wanted, not the exact count of hundreds."""
    count = 1
    while count <= most:
        yield count
        count += max(1, count // 16)


def _capacity(engine: Engine, load: Load, *, room: float, block_tokens: int) -> int:
    """Requests that fit: keys and values grow while an answer is written. Its last block is half empty on average."""
    return max(1, min(MAX_BATCH, int(room / engine.cached_bytes(held_tokens(load) + (block_tokens - 1) / 2))))


def _chunk(load: Load, max_seq_len: int, engine: Engine) -> int:
    """Prompt tokens a step: whole prompts where they are short, so that products are long enough; fewer where what that
    takes beside the weights (scores on TPUs) would be a large share of the memory."""
    chunk = 128 if engine.machine.kind == "cpu" else CHUNKS[0]
    while chunk < min(load.input_tokens, CHUNKS[2]):
        chunk *= 2
    chunk = min(chunk, max_seq_len)
    while chunk > LEAST_CHUNK and _of_prompts(engine, chunk, max_seq_len) > PROMPTS_SHARE * engine.machine.memory_bytes:
        chunk = max(LEAST_CHUNK, chunk // 2)
    return chunk


def _of_prompts(engine: Engine, chunk: int, max_seq_len: int) -> float:
    """Bytes that a longer piece of a prompt takes more."""
    least = engine.buffers_bytes(chunk=0, batch=1)
    return engine.buffers_bytes(chunk=chunk, batch=1, keys=max_seq_len) - least


def _round_up(batch: float) -> int:
    """To a multiple of 8, of 4 or of 1, by size."""
    step = 8 if batch > 16 else 4 if batch > 4 else 1
    return max(1, -int(-batch // step) * step)


def _no_room(engine: Engine, asked: Serve, machine: Machine, *, replicas: int, chunk: int) -> Candidate:
    batch = asked.layout.max_batch or 1
    needs = engine.weights_bytes + engine.cached_bytes(asked.max_seq_len)
    needs += engine.buffers_bytes(chunk=chunk, batch=batch, keys=asked.max_seq_len)
    usable = engine.constants.memory_fraction * machine.memory_bytes
    gib = 1024**3
    reason = f"needs {needs / gib:.1f} GiB of {usable / gib:.1f} GiB a device"
    binding = "weights" if engine.weights_bytes > needs / 2 else "kv_cache"
    load = load_of(asked, replicas=replicas) or _default_load(asked)
    return Candidate(
        engine.shape, replicas, batch, chunk, engine, 0, asked.max_seq_len, load, None, reason=reason, binding=binding
    )


def misses(service: Service, slo: Slo | None) -> tuple[str, str] | None:
    """(sentence, objective) of what does not hold."""
    if not service.is_stable:
        return f"keeps up with {service.requests_per_s:.2f} requests/s a replica at most", "requests_per_s"
    if slo is None:
        return None
    for name, value in percentiles_ms(service).items():
        limit = getattr(slo, name)
        if limit is not None and value > limit:
            return f"{name} {value:.4g} ms, {limit:g} ms is asked", name
    return None


def percentiles_ms(service: Service) -> dict[str, float]:
    """By the names of objectives."""
    return {
        "ttft_p50_ms": service.ttft_p50_s * 1e3,
        "ttft_p99_ms": service.ttft_p99_s * 1e3,
        "tpot_p50_ms": service.tpot_p50_s * 1e3,
        "tpot_p99_ms": service.tpot_p99_s * 1e3,
    }


def judged(candidate: Candidate, asked: Serve) -> Candidate:
    """The candidate with its verdict renewed, after its percentiles changed."""
    assert candidate.service is not None
    missed = misses(candidate.service, asked.slo if asked.workload is not None else None)
    return replace(candidate, reason=missed[0] if missed else None, binding=missed[1] if missed else "")


def _distance(candidate: Candidate, slo: Slo | None) -> float:
    """How far the worst objective is missed, as a ratio."""
    if candidate.service is None:
        return float("inf")
    ratios = [0.0 if candidate.service.is_stable else 10.0]
    for name, value in percentiles_ms(candidate.service).items():
        limit = getattr(slo, name) if slo is not None else None
        if limit is not None:
            ratios.append(value / limit)
    return max(ratios)
