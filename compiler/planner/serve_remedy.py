"""What would hold, where nothing does: one change of the spec, planned before it is proposed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .serve_finalists import play_finalists
from .serve_search import Candidate, HasKernels, load_of, percentiles_ms, search_serving

if TYPE_CHECKING:
    from ...spec.serving import Serve
    from ..ir.graph import Graph
    from ..topology.machine import Machine

SPARE = 1.05
"""Of what was predicted, what an objective is relaxed to at first; then a half more each time."""
RELAXED = 5
RATES = (0.9, 0.75, 0.5, 0.25, 0.1)
"""Of what the machine was predicted to keep up with."""
NARROWER = ("fp8", "int4")


def serving_remedy(
    asked: Serve, graph: Graph, machine: Machine, nearest: Candidate, *, has_kernels: HasKernels | None
) -> str | None:
    """A help line, checked; None where no single change was found."""
    for words, changed in _changes(asked, machine, nearest):
        found = search_serving(changed, graph, machine, has_kernels=has_kernels)
        play_finalists(found, changed)
        if found.good:
            return f"`{words}` holds, with {_layout(found.good[0])}"
    return None


def _changes(asked: Serve, machine: Machine, nearest: Candidate) -> Iterator[tuple[str, Serve]]:
    if nearest.service is None:
        yield from _formats(asked)
        return
    if nearest.binding == "requests_per_s":
        most = nearest.service.requests_per_s * nearest.replicas
        for share in RATES:
            rate = _round_down(most * share)
            yield f"requests_per_s: {rate:g}", _with_workload(asked, requests_per_s=rate)
        return
    value = percentiles_ms(nearest.service)[nearest.binding]
    for number in range(RELAXED):
        limit = _round_up(value * SPARE * 1.5**number)
        yield f"{nearest.binding}: {limit:g}", _with_slo(asked, **{nearest.binding: limit})
    load = load_of(asked, replicas=1)
    if load is not None and load.requests_per_s is not None:
        for share in (0.75, 0.5, 0.25, 0.1):
            rate = _round_down(load.requests_per_s * share)
            yield f"requests_per_s: {rate:g}", _with_workload(asked, requests_per_s=rate)


def _formats(asked: Serve) -> Iterator[tuple[str, Serve]]:
    for label in NARROWER:
        if label not in asked.weights.dtype:
            weights = asked.weights.model_copy(update={"dtype": (label,)})
            yield f"weights: {{dtype: {label}}}", asked.model_copy(update={"weights": weights})


def _with_slo(asked: Serve, **changed: Any) -> Serve:
    assert asked.slo is not None
    return asked.model_copy(update={"slo": asked.slo.model_copy(update=changed)})


def _with_workload(asked: Serve, **changed: Any) -> Serve:
    assert asked.workload is not None
    return asked.model_copy(update={"workload": asked.workload.model_copy(update=changed)})


def _round_up(value: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit) * unit, 6)


def _round_down(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(max(value, 1e-6))) - 1)
    return round(math.floor(value / unit) * unit, 6)


def _layout(candidate: Candidate) -> str:
    shape = candidate.shape
    many = f"{candidate.replicas} × " if candidate.replicas > 1 else ""
    return f"{many}tp {shape.tp}{f' × pp {shape.pp}' if shape.pp > 1 else ''} in {shape.weights}"
