"""The view of serve.py: what one server process holds and admits, every constant worked out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...spec.units import GIB
from ..deploy.monitoring.objectives import bounds_of, objectives_of
from ..kernels.kernel import TORCH_TYPES
from ..kernels.serving import has_packed_weights, has_serving_kernels, serves_on_gpu
from ..kernels.weight_only_linear import BITS
from .buckets import buckets_of, last_pieces, padded_share
from .experts import lower_experts
from .numbers import gib

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ...spec.serving import Weights
    from ..kernels.kernel import Kernel
    from ..planner.plan import ServeLimit, ServePlan
    from .experts import ExpertsView
    from .ranks import RanksView


@dataclass(frozen=True)
class ServeView:
    """What templates/pytorch/serve.py.j2 needs, under the name `s`. `…_reason` texts become comments beside the number."""

    name: str
    """The spec's name: the model that clients ask for, and the folder runs/<name> whose latest checkpoint is served."""
    origin: str
    """The spec's file, for the header."""
    plan_lines: tuple[str, ...]
    """What the plan expects (TTFT, TPOT, tokens/s, memory), a line each, for the header."""
    device: Literal["cpu", "cuda", "npu", "xla"]
    graph_batches: tuple[int, ...]
    """Numbers of running answers for which a step is captured as a graph; empty where steps are launched op by op."""
    packed: PackedServeView | None
    """Of weights in the order in which kernels read them."""
    is_bf16: bool
    """Weights and activations of PyTorch's ops in bf16 (on a CPU, if it turns out to be fast there), else in fp32."""
    tells_lengths: bool
    """Whether the model is told how long sequences are."""
    compiles_kernels: bool
    """Whether there are kernels in C++ or Triton, which are compiled where the server runs."""
    has_draw: bool
    """Whether drawing tokens is a kernel."""
    joins_prompts: bool
    """Whether pieces of several prompts go through the model together: attention has a kernel for them."""
    experts: ExpertsView | None
    kv_dtype: str
    """PyTorch's name of the format of keys and values."""
    vocab_size: int
    """Rows of the model's embedding. The tokenizer may have fewer tokens."""
    max_seq_len: int
    """Longest prompt and answer together, tokens: `serve.max_seq_len`, at most `model.max_seq_len`."""
    max_batch: int
    """Sequences that run at a time."""
    block_tokens: int
    num_blocks: int
    """Blocks of the KV cache, for all sequences together: the plan's room, and at least one sequence of the greatest length."""
    num_blocks_reason: str
    has_prefix_cache: bool
    is_fixed: bool
    """Every step has the same shapes, so that a request's numbers do not depend on the others."""
    max_blocks: int
    """Blocks of a sequence of the greatest length."""
    asks_keys: bool
    has_tls: bool
    cors: tuple[str, ...]
    """Origins of web pages that may call."""
    requests_per_minute: int | None
    """Of one caller."""
    has_tracing: bool
    """A span of OpenTelemetry for each completion."""
    has_page: bool
    """A chat page beside the API."""
    replicas: int
    """Servers that the plan wants; with several there is a router before them."""
    ranks: RanksView | None
    """Of a replica of several devices."""
    chips: int
    """Of a replica on TPUs, whose chips work as one device; 1 on other accelerators."""
    prefill_chunk: int
    """Prompt tokens computed in one step, over all prompts: the plan's `prefill_chunk`. Bounds how long a prompt delays others."""
    prefill_chunk_reason: str
    prefill_lengths: tuple[int, ...]
    """Lengths that a piece of a prompt is padded to, where shapes are fixed; the last is the chunk."""
    prefill_lengths_reason: str
    max_waiting: int
    """Requests that may wait for a slot; more are refused with 429."""
    max_waiting_reason: str
    max_waiting_tokens: int
    """Prompt tokens that may wait beside a single prompt: (ttft_slo - prefill) * prefill rate, from the plan."""
    max_waiting_tokens_reason: str
    max_wait_steps: int | None
    """Steps that a request may be expected to wait before it begins; more and it is refused. None without an objective."""
    max_wait_steps_reason: str
    stall_s: float
    """A step that takes longer means that the engine is stuck: well above the longest step of the plan, at least seconds."""
    bounds: tuple[tuple[str, tuple[float, ...]], ...]
    """Histogram -> buckets at the objectives, beyond those that every server has."""
    drain_s: int
    """Seconds that running requests have to finish after SIGTERM: max_seq_len times the plan's time per output token."""

    @property
    def spin_count(self) -> int:
        return SPIN_COUNT

    @property
    def on_device(self) -> bool:
        """Whether the model and what it is given lie on an accelerator that PyTorch itself knows."""
        return self.device in ("cuda", "npu")

    @property
    def asks_bf16(self) -> bool:
        """Whether the number format is found out when the program starts."""
        return self.is_bf16 and self.device == "cpu" and self.packed is None

    @property
    def num_graphs(self) -> int:
        """Shapes that are compiled: of single tokens, and of pieces of prompts."""
        return 1 + len(self.prefill_lengths)

    @property
    def has_middleware(self) -> bool:
        """Whether a request goes through something before its route."""
        return self.has_door or self.has_tracing

    @property
    def has_door(self) -> bool:
        """Whether some are not let in."""
        return bool(self.asks_keys or self.cors or self.requests_per_minute)


@dataclass(frozen=True)
class PackedServeView:
    torch_dtype: str
    """Of activations."""
    is_rounded: bool
    """Whether weights are in few bits."""
    words: str


_LEAST_STALL_S = 30.0
"""No engine is called stuck sooner: a first step on a cold or busy machine may take seconds."""
_STALL_STEPS = 20
_LEAST_DRAIN_S = 5
SPIN_COUNT = 3000
"""Turns that threads of GNU's OpenMP wait awake for the next kernel, on CPUs."""


def lower_serve(
    spec: Spec,
    plan: ServePlan,
    *,
    origin: str,
    device: Literal["cpu", "cuda", "npu", "xla"],
    kernels: tuple[Kernel, ...] = (),
    ranks: RanksView | None = None,
) -> ServeView:
    """One replica. Each bound carries the inequality that gave it."""
    serve = spec.serve
    assert serve is not None
    layout, predicted = plan.layout, plan.predicted
    max_seq_len = min(serve.max_seq_len, spec.model.max_seq_len)
    block_tokens = serve.kv_cache.block_tokens
    is_fixed = serve.shapes == "fixed"
    longest_step_s = (predicted.ttft_p50_ms + predicted.tpot_p50_ms) / 1e3
    bound = _queue_bound(spec, plan)
    max_blocks = -(-max_seq_len // block_tokens)
    chunk = layout.prefill_chunk + -layout.prefill_chunk % block_tokens if is_fixed else layout.prefill_chunk
    pieces = last_pieces(serve.workload, chunk=chunk, longest=max_seq_len) if is_fixed else [1.0]
    lengths = buckets_of(pieces, block_tokens=block_tokens)
    devices = layout.tp * layout.pp
    is_packed = has_packed_weights(spec, weights=layout.weights, devices=devices)
    return ServeView(
        name=spec.name,
        origin=origin,
        plan_lines=_plan_lines(plan),
        device=device,
        graph_batches=_graph_batches(spec, layout.max_batch, kernels) if devices == 1 else (),
        packed=_packed(serve.weights, layout.weights, dtype=layout.kv_dtype) if is_packed else None,
        is_bf16=layout.weights == "bf16" and not is_packed,
        tells_lengths=any(kernel.name == "paged_attention" for kernel in kernels),
        compiles_kernels=any(kernel.is_native or kernel.is_triton for kernel in kernels),
        has_draw=serves_on_gpu(spec) and has_serving_kernels(spec, weights=layout.weights, devices=devices),
        joins_prompts=any(kernel.template == "prefill_attention" for kernel in kernels),
        experts=lower_experts(spec),
        kv_dtype="torch.int8"
        if layout.kv_dtype == "int8"
        else TORCH_TYPES["fp32" if layout.kv_dtype == "fp32" else "bf16"],
        vocab_size=spec.model.vocab_size,
        max_seq_len=max_seq_len,
        max_batch=layout.max_batch,
        block_tokens=block_tokens,
        num_blocks=max(max_blocks, predicted.kv_cache_tokens // block_tokens),
        num_blocks_reason=_room(plan, max_seq_len=max_seq_len),
        has_prefix_cache=serve.kv_cache.prefix_cache,
        is_fixed=is_fixed,
        max_blocks=max_blocks,
        asks_keys=serve.api.keys,
        has_tls=serve.api.tls,
        cors=serve.api.cors,
        requests_per_minute=serve.api.requests_per_minute,
        has_tracing=serve.api.tracing,
        has_page=serve.ui,
        replicas=layout.replicas,
        ranks=ranks,
        chips=layout.tp if device == "xla" else 1,
        prefill_chunk=chunk,
        prefill_chunk_reason="what a prompt may add to the step of running answers",
        prefill_lengths=lengths,
        prefill_lengths_reason=f"{padded_share(pieces, lengths):.0%} of the last pieces is padding",
        max_waiting=bound.requests,
        max_waiting_reason=bound.requests_reason,
        max_waiting_tokens=bound.tokens,
        max_waiting_tokens_reason=bound.tokens_reason,
        max_wait_steps=bound.steps,
        max_wait_steps_reason=bound.steps_reason,
        stall_s=max(_LEAST_STALL_S, math.ceil(_STALL_STEPS * longest_step_s)),
        bounds=tuple(bounds_of(objectives_of(serve.slo)).items()),
        drain_s=max(_LEAST_DRAIN_S, math.ceil(max_seq_len * predicted.tpot_p99_ms / 1e3)),
    )


def _graph_batches(spec: Spec, max_batch: int, kernels: tuple[Kernel, ...]) -> tuple[int, ...]:
    """Powers of two up to the greatest batch; the greatest alone where shapes are fixed. Without an op for attention to the cache in
    blocks a step has no graph: its shapes grow with the sequences."""
    if not any(kernel.name == "paged_attention" for kernel in kernels):
        return ()
    assert spec.serve is not None
    smaller = () if spec.serve.shapes == "fixed" else tuple(1 << bit for bit in range((max_batch - 1).bit_length()))
    return (*smaller, max_batch)


def _packed(asked: Weights, weights: str, *, dtype: str) -> PackedServeView:
    activations, is_rounded = TORCH_TYPES["fp32" if dtype == "fp32" else "bf16"], weights in BITS
    what = "weights" if asked.activations is None else f"inputs to {asked.activations} and their weights"
    words = f"of activations and norms; linear layers round their {what} to {weights}"
    return PackedServeView(activations, is_rounded, words if is_rounded else "of weights and activations")


def _plan_lines(plan: ServePlan) -> tuple[str, ...]:
    at, layout = plan.predicted, plan.layout
    devices = f"{layout.pp} stages, " if layout.pp > 1 else ""
    devices += f"tp over {layout.tp} devices, " if layout.tp > 1 else ""
    devices += f"experts spread {layout.ep} ways over them, " if layout.ep > 1 else ""
    return (
        f"Plan: {devices}{layout.max_batch} sequences at a time, {layout.prefill_chunk} prompt tokens a step, {layout.weights} weights.",
        f"Expected: first token after {at.ttft_p50_ms:.3g} ms (p99 {at.ttft_p99_ms:.3g}), then one each {at.tpot_p50_ms:.3g} ms"
        f" (p99 {at.tpot_p99_ms:.3g}); {gib(at.memory_gib.peak * GIB)}.",
    )


def _room(plan: ServePlan, *, max_seq_len: int) -> str:
    """What the cache holds, and what it takes."""
    tokens, size = plan.predicted.kv_cache_tokens, gib(plan.predicted.memory_gib.kv_cache * GIB)
    if tokens < max_seq_len:
        return f"one sequence at full length; the plan has room for {tokens:,} tokens"
    return f"the planned room of {tokens:,} tokens, {size}; {tokens // max_seq_len:,} sequences at full length"


@dataclass(frozen=True)
class _QueueBound:
    """How much may wait before new requests are refused."""

    requests: int
    requests_reason: str
    tokens: int
    tokens_reason: str
    steps: int | None
    steps_reason: str


def _queue_bound(spec: Spec, plan: ServePlan) -> _QueueBound:
    """How much may wait so that the last of it still starts within the objective for the first token: the plan's limits.

    Without an objective, as much as runs may wait.
    """
    assert spec.serve is not None
    longest, batch = spec.serve.max_seq_len, plan.layout.max_batch
    limits = {limit.name: limit for limit in plan.limits}
    tokens, steps = limits.get("max_queued_tokens"), limits.get("max_wait_steps")
    requests = limits.get("max_queued_requests")
    return _QueueBound(
        requests=requests.value if requests is not None else batch,
        requests_reason="as many as run",
        tokens=tokens.value if tokens is not None else batch * longest,
        tokens_reason=_worked_out(tokens) if tokens is not None else "as many of the longest as run",
        steps=steps.value if steps is not None else None,
        steps_reason=_worked_out(steps) if steps is not None else "",
    )


def _worked_out(limit: ServeLimit) -> str:
    """The numbers of an inequality: `a <= b - c = 500 ms - 20 ms = 480` is "500 ms - 20 ms"."""
    return limit.inequality.split(" = ")[-2].replace("*", "x")
