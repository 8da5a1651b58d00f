"""The table of metrics: the one place that names them.

`/metrics` is built from it here; the dashboard, the alert rules, the autoscaler (compiler/deploy/) and the page of the
documentation are made from the same table. Names follow Prometheus: base units, `_total` for counters. "Request" in a name
means one prompt and one answer (a call with n = 3 counts three).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["gauge", "counter", "histogram"]
Unit = Literal["", "seconds", "requests", "tokens", "blocks", "responses"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STEP_TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Kind
    unit: Unit
    """What the value counts; a histogram's is that of one observation."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS = (
    Metric("llmc_requests_running", "gauge", "requests", "Requests that are computed."),
    Metric("llmc_requests_waiting", "gauge", "requests", "Requests that wait for room in the batch or the cache."),
    Metric(
        "llmc_tokens_waiting", "gauge", "tokens", "Tokens to compute for the requests that wait, before their next one."
    ),
    Metric("llmc_kv_blocks_used", "gauge", "blocks", "Blocks of the KV cache in use."),
    Metric("llmc_kv_blocks", "gauge", "blocks", "Blocks of the KV cache in all."),
    Metric("llmc_engine_up", "gauge", "", "1 while the engine makes progress or has nothing to do, else 0."),
    Metric(
        "llmc_engine_step_age_seconds", "gauge", "seconds", "Seconds since the engine last began a step; 0 when idle."
    ),
    Metric(
        "llmc_requests_total",
        "counter",
        "requests",
        "Finished requests, by reason: stop, length, cancelled, error.",
        ("reason",),
    ),
    Metric("llmc_requests_refused_total", "counter", "requests", "Requests refused because the queue was full."),
    Metric(
        "llmc_preemptions_total", "counter", "requests", "Times that a request gave its blocks up to be computed again."
    ),
    Metric("llmc_http_responses_total", "counter", "responses", "Responses, by route and status.", ("route", "status")),
    Metric("llmc_prompt_tokens_total", "counter", "tokens", "Prompt tokens of accepted requests."),
    Metric("llmc_output_tokens_total", "counter", "tokens", "Tokens sampled."),
    Metric(
        "llmc_time_to_first_token_seconds", "histogram", "seconds", "From arrival to the first token.", buckets=SECONDS
    ),
    Metric(
        "llmc_time_per_output_token_seconds",
        "histogram",
        "seconds",
        "Mean time between the tokens of a request.",
        buckets=SECONDS,
    ),
    Metric("llmc_request_seconds", "histogram", "seconds", "From arrival to the end of a request.", buckets=SECONDS),
    Metric(
        "llmc_step_seconds",
        "histogram",
        "seconds",
        "One step of the engine: model, sampling, bookkeeping.",
        buckets=SECONDS,
    ),
    Metric("llmc_step_tokens", "histogram", "tokens", "Tokens computed in one step.", buckets=STEP_TOKENS),
)

ROUTER_METRICS = (
    Metric(
        "llmc_router_responses_total", "counter", "responses", "Responses, by route and status.", ("route", "status")
    ),
    Metric(
        "llmc_router_retries_total",
        "counter",
        "requests",
        "Requests that went on to another replica: the one before was unreached, full, failed, or lost while it had them.",
        ("reason",),
    ),
    Metric("llmc_router_broken_total", "counter", "responses", "Answers that had begun when their replica was lost."),
    Metric(
        "llmc_router_known_total",
        "counter",
        "requests",
        "Requests that went where the beginning of their prompt was seen.",
    ),
    Metric("llmc_router_replica_ready", "gauge", "", "1 while a replica's probe is green.", ("replica",)),
    Metric("llmc_router_replica_requests", "gauge", "requests", "Requests that a replica has.", ("replica",)),
)
"""Of the router before several replicas; theirs are METRICS."""


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(
        self, *, bounds: Mapping[str, Sequence[float]] | None = None, table: Sequence[Metric] = METRICS
    ) -> None:
        """`bounds` are further buckets of histograms: an objective can be counted exactly at its own bound."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

        disable_created_metrics()  # the `_created` twins are not in the table
        makers = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        for metric in table:
            further = (bounds or {}).get(metric.name, ())
            options = {"buckets": sorted({*metric.buckets, *further})} if metric.buckets else {}
            maker = makers[metric.kind]
            self._metrics[metric.name] = maker(
                metric.name, metric.help, metric.labels, registry=self.registry, **options
            )

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        metric = self._metrics[name]
        (metric.labels(**labels) if labels else metric).inc(amount)

    def observe(self, name: str, value: float) -> None:
        self._metrics[name].observe(value)

    def track(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Let a gauge read its value when it is asked for."""
        metric = self._metrics[name]
        (metric.labels(**labels) if labels else metric).set_function(read)

    def exposition(self) -> tuple[bytes, str]:
        """The text of `/metrics` and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
