"""Spans of OpenTelemetry, as its own exporter in memory sees them."""

from __future__ import annotations

import json

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.middleware import Middleware

from llmc.runtimes.serving.api import create_app
from llmc.runtimes.serving.tracing import Tracing, open_tracer


@pytest.fixture
def traced(api, say):
    """An API whose spans are kept, and a function that gives them."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    middleware = Middleware(Tracing, tracer=provider.get_tracer("test"), model="tiny")

    def build(**options):
        call, parts = api(**{"logits": say(b"hi"), **options})
        call.app = create_app(parts.service, [middleware])
        return call, exporter.get_finished_spans

    return build


def attributes(span: ReadableSpan) -> dict:
    return dict(span.attributes or {})


def test_a_completion_is_a_span_with_its_tokens(traced, caplog):
    caplog.set_level("INFO", "llmc.serving.access")
    call, spans = traced()
    assert call.complete("a>", temperature=0).status_code == 200
    (span,) = spans()
    assert (span.name, span.kind) == ("text_completion tiny", SpanKind.SERVER)
    found = attributes(span)
    assert found["gen_ai.usage.input_tokens"] == 2
    assert found["gen_ai.usage.output_tokens"] == 3
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert found["http.response.status_code"] == 200
    assert json.loads(caplog.messages[-1])["trace"] == f"{span.context.trace_id:032x}", "the log names its trace"


def test_a_stream_tells_when_its_first_words_went_out(traced):
    call, spans = traced()
    call.complete("a>", temperature=0, stream=True)
    (span,) = spans()
    (event,) = span.events
    assert event.name == "first output"
    assert span.start_time < event.timestamp < span.end_time


def test_a_span_belongs_to_the_trace_of_its_caller(traced):
    call, spans = traced()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"model": "tiny", "prompt": "a>"}
    call("POST", "/v1/completions", json=body, headers={"traceparent": parent})
    (span,) = spans()
    assert span.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert span.parent.span_id == 0xB7AD6B7169203331


def test_refusals_are_spans_and_faults_are_errors(traced):
    call, spans = traced(fault=RuntimeError("broken"))
    call("POST", "/v1/completions", json={"model": "tiny"})
    call.complete("a>")
    refused, failed = spans()
    assert (attributes(refused)["http.response.status_code"], refused.status.status_code) == (400, StatusCode.UNSET)
    assert (attributes(failed)["http.response.status_code"], failed.status.status_code) == (500, StatusCode.ERROR)


def test_probes_and_lists_are_no_spans(traced):
    call, spans = traced()
    for path in ("/health/live", "/metrics", "/v1/models", "/nowhere"):
        call("GET", path)
    assert spans() == ()


def test_spans_go_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = open_tracer("tiny")
    assert tracer.resource.attributes["service.name"] == "tiny"  # type: ignore[attr-defined]
