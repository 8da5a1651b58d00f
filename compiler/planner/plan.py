"""The plan: what `llmc plan --json` prints and `--plan` reads. These names are stable; tools depend on them.

JSON both ways: `Plan.from_json(plan.to_json()) == plan`. Units are in the names; memory in GiB, time in seconds.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .layout import OPTIONAL, Layout

SILENT = (*OPTIONAL, "reliability")
"""Fields that are written where they say something."""
PLAN_SCHEMA_FILE = "plan.schema.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Memory(_Part):
    """GiB of the device that needs most; the parts sum to the peak."""

    peak: float
    parameters: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float = Field(description="Logits, gathered weights, working set, runtime: what comes and goes.")


class Time(_Part):
    """Seconds of a step. compute + recompute + bubble + optimizer + exposed_comm is the step; `*_comm` are whole times."""

    compute: float
    recompute: float
    tp_comm: float
    dp_comm: float
    pp_comm: float
    cp_comm: float
    ep_comm: float
    bubble: float
    optimizer: float
    exposed_comm: float = Field(description="What of the communication compute does not hide.")


class TrainPrediction(_Part):
    """What a layout is expected to do."""

    step_time_s: float
    step_time_low_s: float
    step_time_high_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    model_tflops_per_device: float = Field(description="Forward and backward, causal attention, nothing twice.")
    mfu: float = Field(description="Share of the peak of the precision's matrix units.")
    memory_gib: Memory
    time_s: Time
    device_hours: float = Field(description="Of the whole training stage.")
    cost_usd: float | None
    energy_mwh: float | None


class Alternative(_Part):
    """A layout that fits and is not chosen."""

    layout: Layout
    predicted: TrainPrediction


class Rejected(_Part):
    """A layout that does not fit, or cannot be."""

    layout: Layout
    reason: str
    binding: str = Field(description="The class of memory, or the rule, that stands against it.")


class Reliability(_Part):
    """What checkpoints and failures cost, with the storage that the spec names."""

    checkpoint_gib: float
    write_s: float = Field(description="One checkpoint, from the first byte to the last.")
    stop_s: float = Field(description="What of it stops training: the copy to host memory.")
    interval_s: float = Field(description="Training between checkpoints that loses least (Young, Daly).")
    every_steps: int
    mtbf_hours: float = Field(description="Between failures of the whole machine.")
    goodput: float = Field(description="Share of the time that trains and is not done again.")


class TrainPlan(_Part):
    layout: Layout
    predicted: TrainPrediction
    fits: bool
    alternatives: tuple[Alternative, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    reliability: Reliability | None = Field(default=None, description="Only where the spec names `hardware.storage`.")


class ServeLayout(_Part):
    """How an engine is laid out, and how many there are."""

    tp: int
    pp: int
    ep: int
    replicas: int
    max_batch: int = Field(description="Requests a step, a replica.")
    prefill_chunk: int = Field(description="Prompt tokens a step, a replica.")
    weights: str
    kv_dtype: str


class ServeMemory(_Part):
    """GiB a device."""

    peak: float
    weights: float
    kv_cache: float
    buffers: float


class ServePrediction(_Part):
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    output_tokens_per_s: float
    output_tokens_per_s_per_device: float
    requests_per_s: float
    memory_gib: ServeMemory
    kv_cache_tokens: int


class ServeAlternative(_Part):
    layout: ServeLayout
    predicted: ServePrediction


class ServeRejected(_Part):
    layout: ServeLayout
    reason: str
    binding: str


class ServeInterval(_Part):
    """Between which the medians of `predicted` are, nine times in ten."""

    ttft_p50_low_ms: float
    ttft_p50_high_ms: float
    tpot_p50_low_ms: float
    tpot_p50_high_ms: float


class ServeLimit(_Part):
    """A bound that follows from the plan, with the inequality that it comes from. Of one replica."""

    name: str
    value: int
    inequality: str


class ServePlan(_Part):
    layout: ServeLayout
    predicted: ServePrediction
    meets_slo: bool
    devices: int
    alternatives: tuple[ServeAlternative, ...] = ()
    rejected: tuple[ServeRejected, ...] = ()
    limits: tuple[ServeLimit, ...] = ()
    interval: ServeInterval | None = Field(default=None, description="null: of a plan that was made by hand.")
    simulated_requests: int | None = Field(
        default=None, description="Requests that `predicted`'s percentiles are over; null: from closed forms."
    )
    disaggregated: str | None = Field(
        default=None, description="A layout with prefill on devices of its own that would take fewer, in words."
    )


class ModelFacts(_Part):
    parameters: int
    active_parameters: int


class DiagnosticFacts(_Part):
    code: str
    severity: Literal["error", "warning"]
    message: str
    file: str | None
    line: int | None
    column: int | None
    hint: str | None


class Plan(_Part):
    """One spec's plan. A spec that cannot be planned has diagnostics and no `model`, `train` or `serve`."""

    llmc_plan: Literal[1] = 1
    name: str
    spec_sha256: str | None
    model: ModelFacts | None = None
    train: TrainPlan | None = None
    serve: ServePlan | None = None
    diagnostics: tuple[DiagnosticFacts, ...] = ()
    spec: dict[str, Any] | None = Field(
        default=None, description="The resolved spec, in the files that `llmc plan --out` writes and nowhere else."
    )

    def to_json(self) -> dict[str, Any]:
        """A JSON object, keys in the stable order."""
        data = self.model_dump(mode="json")
        carried = data.pop("spec")
        data = _without_silent_fields(data)
        return data if carried is None else {**data, "spec": carried}

    def to_text(self) -> str:
        """The object as an indented text: `plan.json`."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, data: str | dict[str, Any]) -> Plan:
        """A plan from a text or an object; pydantic's ValidationError names what does not fit."""
        if isinstance(data, str):
            return cls.model_validate_json(data)
        return cls.model_validate_json(json.dumps(data))


def plan_schema() -> dict[str, Any]:
    """JSON Schema of what `llmc plan --json` prints: a list with one plan a spec. Exported as schema/plan.schema.json."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(list[Plan]).json_schema(mode="serialization")
    title = "Plans of llmc: one entry a spec"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def plan_schema_text() -> str:
    """As it is committed in schema/: stable, readable, one line break at the end."""
    return json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n"


def _without_silent_fields(value: Any) -> Any:
    """Fields of a layout that need not be given are written where they say something: `cp_kind` with cp > 1, …"""
    if isinstance(value, dict):
        return {
            key: _without_silent_fields(each) for key, each in value.items() if key not in SILENT or each is not None
        }
    if isinstance(value, list):
        return [_without_silent_fields(each) for each in value]
    return value
