"""The serving half of a plan: search, then say it in the plan's terms, or say what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...spec.diagnostics import Diagnostic, diagnose
from ...spec.units import GIB
from ..cost.serving import Engine
from ..cost.serving_constants import interval_of
from ..topology.machine import Machine, machine_of
from .plan import ServeAlternative, ServeInterval, ServeLayout, ServeMemory, ServePlan, ServePrediction, ServeRejected
from .serve_disaggregated import best_disaggregated
from .serve_finalists import play_finalists
from .serve_limits import limits_of
from .serve_remedy import serving_remedy
from .serve_search import TOO_MANY, Candidate, HasKernels, Refusal, ServeSearch, load_of, search_serving
from .serve_trace import with_trace

if TYPE_CHECKING:
    from pathlib import Path

    from ...spec.document import Spec
    from ...spec.serving import Serve
    from ..ir.graph import Graph

MAX_ALTERNATIVES = 4
MAX_REJECTED = 8
MAX_LEFT_OUT = 2
"""Of layouts that would hold and have no program yet: the cheapest."""


@dataclass(frozen=True)
class ServeOutcome:
    """The plan, or diagnostics; and what the search saw, for the report."""

    plan: ServePlan | None
    diagnostics: tuple[Diagnostic, ...]
    found: ServeSearch
    machine: Machine
    price_per_hour_usd: float | None
    """Of a device."""
    folder: Path
    """Of the spec."""


def plan_serving(spec: Spec, graph: Graph, *, folder: Path) -> ServeOutcome:
    """Plan the server of a spec, which lies in `folder`. `graph` ends in logits."""
    assert spec.serve is not None
    machine = machine_of(spec.hardware)
    serve = with_trace(spec.serve, folder=folder)
    if isinstance(serve, Diagnostic):
        return ServeOutcome(None, (serve,), ServeSearch(), machine, None, folder)
    spec = spec.model_copy(update={"serve": serve})
    assert spec.serve is not None
    found = _search(spec, spec.serve, graph, machine)
    price = spec.hardware.price_per_hour_usd
    if found.good:
        return ServeOutcome(_plan(found.good[0], found, spec.serve, meets_slo=True), (), found, machine, price, folder)
    diagnostics = _nothing(spec, graph, found, machine)
    nearest = next((each for each in found.bad if each.service is not None), None)
    plan = _plan(nearest, found, spec.serve, meets_slo=False) if nearest is not None else None
    return ServeOutcome(plan, tuple(diagnostics), found, machine, price, folder)


def _search(spec: Spec, serve: Serve, graph: Graph, machine: Machine) -> ServeSearch:
    """Among layouts of which there would be a program; where none of these holds, among all."""
    found = search_serving(serve, graph, machine, refusal=_refusal_of(spec), has_kernels=kernels_of(spec))
    play_finalists(found, serve)
    if not found.good and found.left_out:
        found.good = [replace(each, reason=None, binding="") for each in found.left_out]
        found.left_out = []
        play_finalists(found, serve)
    return found


def _refusal_of(spec: Spec) -> Refusal | None:
    """What lowering would say of a shape. None where there is no program whatever the shape, or somebody else's."""
    from ..lower.refuse_serving import refuse_shape

    if spec.assume is not None or spec.hardware.accelerator.kind not in ("cpu", "gpu", "npu", "tpu"):
        return None
    return lambda shape: next((each.message for each in refuse_shape(spec, shape)), None)


def kernels_of(spec: Spec) -> HasKernels | None:
    """What lowering would choose for a shape; on CPUs alone, where a server with kernels has figures of its own."""
    from ..kernels.serving import has_serving_kernels

    if spec.assume is not None or spec.hardware.accelerator.kind != "cpu":
        return None
    return lambda shape: has_serving_kernels(spec, weights=shape.weights, devices=shape.devices)


def _nothing(spec: Spec, graph: Graph, found: ServeSearch, machine: Machine) -> list[Diagnostic]:
    serve = spec.serve
    assert serve is not None
    served = [each for each in found.bad if each.service is not None]
    if not served and not found.bad:
        return [_no_shape(spec, found)]
    if not served:
        nearest = min(found.bad, key=lambda each: each.engine.weights_bytes)
        message = f"serving {nearest.reason}, with {machine.num_devices} × {machine.accelerator}"
        formats = ", ".join(serve.weights.dtype)
        notes = [
            f"weights {nearest.engine.weights_bytes / GIB:.1f} GiB a device at tp {nearest.shape.tp} in {nearest.shape.weights}"
        ]
        notes.append(f"formats tried: {formats}")
        remedy = serving_remedy(serve, graph, machine, nearest, has_kernels=kernels_of(spec))
        return [diagnose("P201", message, path=("serve",), part="key", notes=notes, help=remedy)]
    nearest = served[0]
    limit = _below_physical_limit(spec, [each.engine for each in served], machine)
    if limit is not None:
        name, message = limit
        missed = min((each for each in served if each.binding == name), key=lambda each: -each.devices, default=nearest)
        remedy = serving_remedy(serve, graph, machine, missed, has_kernels=kernels_of(spec))
        return [diagnose("P221", message, path=("serve", "slo", name), help=remedy)]
    message = f"no layout on {machine.num_devices} × {machine.accelerator} holds the objective: the nearest has {nearest.reason}"
    notes = [f"nearest: {describe(layout_of(nearest))}"]
    path = ("serve", "slo", nearest.binding) if nearest.binding.startswith("t") else ("serve", "workload")
    remedy = serving_remedy(serve, graph, machine, nearest, has_kernels=kernels_of(spec))
    return [diagnose("P220", message, path=path, notes=notes, help=remedy)]


def _no_shape(spec: Spec, found: ServeSearch) -> Diagnostic:
    """P202, P203: the degrees that the user fixed do not divide, or need more devices than there are."""
    rule, degree, size = found.skipped[0]
    if rule == TOO_MANY:
        message = f"the serving layout needs {degree:,} devices, the machine has {size:,}"
        return diagnose("P203", message, path=("serve", "layout"), part="key")
    field = "pp" if rule.startswith("more stages") else "tp"
    message = f"serve.layout: {rule}: {degree:,} and {size:,}"
    return diagnose("P202", message, path=("serve", "layout", field))


def _below_physical_limit(spec: Spec, engines: list[Engine], machine: Machine) -> tuple[str, str] | None:
    """P221: (objective, sentence) of a time that the machine's data sheet rules out, whatever the software."""
    slo = spec.serve.slo if spec.serve and spec.serve.workload else None
    if slo is None or spec.serve is None:
        return None
    least_ms = min(engine.least_step_s() for engine in engines) * 1e3
    for name in ("tpot_p50_ms", "tpot_p99_ms"):
        asked = getattr(slo, name)
        if asked is not None and asked < least_ms:
            what = (
                f"the {least_ms:.2g} ms that reading the weights takes at the full bandwidth of {machine.accelerator}"
            )
            return name, f"{name} {asked:g} ms is below {what}"
    load = load_of(spec.serve, replicas=1)
    assert load is not None
    tokens = round(load.input_tokens)
    least_ms = min(engine.least_prefill_s(tokens) for engine in engines) * 1e3
    for name in ("ttft_p50_ms", "ttft_p99_ms"):
        asked = getattr(slo, name)
        if asked is not None and asked < least_ms:
            what = f"the {least_ms:.2g} ms that {tokens:,} prompt tokens take at the full rate of {machine.accelerator}"
            return name, f"{name} {asked:g} ms is below {what}"
    return None


def layout_of(candidate: Candidate) -> ServeLayout:
    shape = candidate.shape
    return ServeLayout(
        tp=shape.tp,
        pp=shape.pp,
        ep=shape.ep,
        replicas=candidate.replicas,
        max_batch=candidate.max_batch,
        prefill_chunk=candidate.prefill_chunk,
        weights=shape.weights,
        kv_dtype=shape.kv_dtype,
    )


def predict(candidate: Candidate) -> ServePrediction:
    """A candidate in the plan's terms."""
    service, engine = candidate.service, candidate.engine
    assert service is not None
    rate = service.requests_per_s * candidate.replicas
    tokens = service.output_tokens_per_s(candidate.load) * candidate.replicas
    weights = engine.weights_bytes / GIB
    buffers = candidate.buffers_bytes / GIB
    cache = candidate.kv_tokens * engine.kv_bytes_per_token / GIB
    return ServePrediction(
        ttft_p50_ms=service.ttft_p50_s * 1e3,
        ttft_p99_ms=service.ttft_p99_s * 1e3,
        tpot_p50_ms=service.tpot_p50_s * 1e3,
        tpot_p99_ms=service.tpot_p99_s * 1e3,
        output_tokens_per_s=tokens,
        output_tokens_per_s_per_device=tokens / candidate.devices,
        requests_per_s=rate,
        memory_gib=ServeMemory(peak=weights + cache + buffers, weights=weights, kv_cache=cache, buffers=buffers),
        kv_cache_tokens=candidate.kv_tokens,
    )


def interval(candidate: Candidate) -> ServeInterval:
    """How far off its medians may be."""
    service = candidate.service
    assert service is not None
    ttft, tpot = (interval_of(name, candidate.engine.constants.spread) for name in ("ttft", "tpot"))
    return ServeInterval(
        ttft_p50_low_ms=service.ttft_p50_s * ttft.low * 1e3,
        ttft_p50_high_ms=service.ttft_p50_s * ttft.high * 1e3,
        tpot_p50_low_ms=service.tpot_p50_s * tpot.low * 1e3,
        tpot_p50_high_ms=service.tpot_p50_s * tpot.high * 1e3,
    )


def _plan(chosen: Candidate, found: ServeSearch, serve: Serve, *, meets_slo: bool) -> ServePlan:
    apart = best_disaggregated(found, serve)
    others = [each for each in found.good if each is not chosen][:MAX_ALTERNATIVES]
    return ServePlan(
        layout=layout_of(chosen),
        predicted=predict(chosen),
        meets_slo=meets_slo,
        devices=chosen.devices,
        alternatives=tuple(ServeAlternative(layout=layout_of(each), predicted=predict(each)) for each in others),
        rejected=tuple(
            ServeRejected(layout=layout_of(each), reason=each.reason or "", binding=each.binding)
            for each in (*found.left_out[:MAX_LEFT_OUT], *found.bad[:MAX_REJECTED])
        ),
        limits=limits_of(chosen, serve),
        interval=interval(chosen),
        simulated_requests=chosen.simulated_requests,
        disaggregated=apart.line() if apart is not None and apart.devices < chosen.devices else None,
    )


def describe(layout: ServeLayout) -> str:
    from .report import serve_line

    return serve_line(layout)
