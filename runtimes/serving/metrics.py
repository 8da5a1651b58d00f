"""The table of metrics: the one place that names them.

`/metrics` is built from it here; dashboards, alert rules and autoscalers read the same table. Names follow Prometheus:
base units, `_total` for counters. "Request" in a name means one prompt and one answer (a call with n = 3 counts three).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["gauge", "counter", "histogram"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STEP_TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS = (
    Metric("llmc_requests_running", "gauge", "Requests that have a KV slot."),
    Metric("llmc_requests_waiting", "gauge", "Requests that wait for a KV slot."),
    Metric("llmc_tokens_waiting", "gauge", "Prompt tokens of the requests that wait."),
    Metric("llmc_kv_slots_used", "gauge", "KV slots in use."),
    Metric("llmc_kv_slots", "gauge", "KV slots in all."),
    Metric("llmc_engine_up", "gauge", "1 while the engine makes progress or has nothing to do, else 0."),
    Metric("llmc_engine_step_age_seconds", "gauge", "Seconds since the engine last began a step; 0 when idle."),
    Metric(
        "llmc_requests_total", "counter", "Finished requests, by reason: stop, length, cancelled, error.", ("reason",)
    ),
    Metric("llmc_requests_refused_total", "counter", "Requests refused because the queue was full."),
    Metric("llmc_http_responses_total", "counter", "Responses, by route and status.", ("route", "status")),
    Metric("llmc_prompt_tokens_total", "counter", "Prompt tokens of accepted requests."),
    Metric("llmc_output_tokens_total", "counter", "Tokens sampled."),
    Metric("llmc_time_to_first_token_seconds", "histogram", "From arrival to the first token.", buckets=SECONDS),
    Metric(
        "llmc_time_per_output_token_seconds", "histogram", "Mean time between the tokens of a request.", buckets=SECONDS
    ),
    Metric("llmc_request_seconds", "histogram", "From arrival to the end of a request.", buckets=SECONDS),
    Metric("llmc_step_seconds", "histogram", "One step of the engine: model, sampling, bookkeeping.", buckets=SECONDS),
    Metric("llmc_step_tokens", "histogram", "Tokens computed in one step.", buckets=STEP_TOKENS),
)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

        disable_created_metrics()  # the `_created` twins are not in the table
        makers = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        for metric in METRICS:
            options = {"buckets": metric.buckets} if metric.buckets else {}
            maker = makers[metric.kind]
            self._metrics[metric.name] = maker(
                metric.name, metric.help, metric.labels, registry=self.registry, **options
            )

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        metric = self._metrics[name]
        (metric.labels(**labels) if labels else metric).inc(amount)

    def observe(self, name: str, value: float) -> None:
        self._metrics[name].observe(value)

    def track(self, name: str, read: Callable[[], float]) -> None:
        """Let a gauge read its value when it is asked for."""
        self._metrics[name].set_function(read)

    def exposition(self) -> tuple[bytes, str]:
        """The text of `/metrics` and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
