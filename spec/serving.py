"""Serving: the expected load, the service-level objective, and what may be traded for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .base import Node
from .serving_api import Api
from .units import Count, Flag, Milliseconds, Positive, Tokens

WeightDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "mxfp4", "nvfp4"]
KvDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8"]


class Workload(Node):
    """The expected requests: an open loop (requests_per_s), a closed loop (concurrency), or a trace."""

    input_tokens: Tokens | None = Field(default=None, description="Mean length of a prompt.")
    output_tokens: Tokens | None = Field(default=None, description="Mean length of an answer.")
    requests_per_s: Positive | None = Field(
        default=None, description="Open loop: mean rate of arrivals, requests/s, Poisson."
    )
    concurrency: Count | None = Field(default=None, description="Closed loop: requests in flight.")
    requests: Count | None = Field(default=None, description="Closed loop: requests in all.")
    arrival: Literal["poisson", "closed", "static"] | None = Field(
        default=None,
        description="static: one batch that starts together; null: poisson with a rate, closed with a concurrency.",
    )
    trace: str | None = Field(
        default=None, description="A .jsonl of requests with arrival times, relative to the spec."
    )


class Slo(Node):
    """The service-level objective: percentiles that must hold."""

    ttft_p50_ms: Milliseconds | None = Field(default=None, description="Time to first token, median.")
    ttft_p99_ms: Milliseconds | None = Field(default=None, description="Time to first token, 99th percentile.")
    tpot_p50_ms: Milliseconds | None = Field(default=None, description="Time per output token, median.")
    tpot_p99_ms: Milliseconds | None = Field(default=None, description="Time per output token, 99th percentile.")


def _one_or_many(value: Any) -> Any:
    """`bf16` is short for `[bf16]`."""
    return (value,) if isinstance(value, str) else value


class Weights(Node):
    """How weights are held."""

    dtype: Annotated[
        tuple[WeightDtype, ...],
        BeforeValidator(
            _one_or_many, json_schema_input_type=WeightDtype | Annotated[tuple[WeightDtype, ...], Field(min_length=1)]
        ),
        Field(min_length=1),
    ] = Field(default=("bf16",), description="Number format of the weights; a list is a choice left to the planner.")
    method: Literal["auto", "round_to_nearest"] = Field(default="auto", description="How weights are quantised.")
    group: Literal[32, 64, 128] | None = Field(
        default=None,
        description="int8, int4: weights of a row that share a scale; null: 64, and 32 in int4 with offsets.",
    )
    symmetric: Flag = Field(
        default=True,
        description="int4: false gives each group an offset, and scale and offset 16 bits each, in place of a scale in 8 bits, and the head int8.",
    )
    activations: Literal["int8"] | None = Field(
        default=None,
        description="int8: what weights in int8 and int4 are multiplied with is rounded too, 32 numbers of a token with a scale; null: stays what it is.",
    )


class KvCache(Node):
    """How keys and values are held."""

    dtype: KvDtype = Field(default="bf16", description="Number format of keys and values.")
    block_tokens: Tokens = Field(default=16, description="Tokens a block of the paged cache.")
    prefix_cache: Flag = Field(default=False, description="Requests that start alike share blocks.")


class Speculative(Node):
    """A cheap draft, verified by the model."""

    draft: str = Field(description="The draft: a preset, or ngram.")
    tokens: Count = Field(default=4, description="Tokens drafted a step.")


class ServeLayout(Node):
    """A serving layout fixed by hand; a field that is null is the planner's."""

    tp: Count | None = Field(default=None, description="Tensor-parallel ranks.")
    pp: Count | None = Field(default=None, description="Pipeline stages.")
    ep: Count | None = Field(default=None, description="Expert-parallel ranks.")
    replicas: Count | None = Field(default=None, description="Independent copies of the engine.")
    max_batch: Count | None = Field(default=None, description="Requests a step, a replica.")
    prefill_chunk: Tokens | None = Field(default=None, description="Prompt tokens a step, a replica.")


def _layout_from_auto(value: Any) -> Any:
    """`auto` is short for `{}`: every field is the planner's."""
    return {} if value == "auto" else value


class Serve(Node):
    """A server: what it must hold, and what may be traded for it."""

    max_seq_len: Tokens = Field(description="Longest prompt and answer together.")
    workload: Workload | None = Field(default=None, description="The expected requests.")
    slo: Slo | None = Field(default=None, description="The percentiles that must hold.")
    weights: Weights = Field(default_factory=Weights, description="How weights are held.")
    kv_cache: KvCache = Field(default_factory=KvCache, description="How keys and values are held.")
    speculative: Speculative | None = Field(default=None, description="A cheap draft, verified by the model.")
    layout: Annotated[
        ServeLayout, BeforeValidator(_layout_from_auto, json_schema_input_type=Literal["auto"] | ServeLayout)
    ] = Field(default_factory=ServeLayout, description="auto, or any of the fields fixed by hand.")
    shapes: Literal["varying", "fixed"] = Field(
        default="varying",
        description="fixed: every step has the same shapes, and a request's tokens are the same, bit for bit, in any company (over more than two TPUs the shapes alone).",
    )
    api: Api = Field(default_factory=Api, description="Who may call, and how often.")
    ui: Flag = Field(default=False, description="A small chat page served beside the API.")
