"""A span for each completion, by OpenTelemetry; in the program only where the spec says so.

Where spans go is OpenTelemetry's own to say: `OTEL_EXPORTER_OTLP_ENDPOINT` and its other variables. Attributes bear the names of its
conventions for generative models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

OPERATIONS = {"/v1/completions": "text_completion", "/v1/chat/completions": "chat"}
NOTED = {  # in the line of the log -> of the span
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "key": "user.name",
}


def open_tracer(name: str) -> Tracer:
    """Spans of this service, sent in the background and once more at the end of the process."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("llmc.serving")


class Tracing:
    """ASGI middleware. A span begins with the request, is a child of what its `traceparent` names, and ends with the answer."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer, model: str) -> None:
        self.app = app
        self.tracer = tracer
        self.model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = OPERATIONS.get(scope["path"]) if scope["type"] == "http" else None
        if operation is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        parent = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": self.model,
            "http.request.method": scope["method"],
            "http.route": scope["path"],
        }
        with self.tracer.start_as_current_span(
            f"{operation} {self.model}", context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            notes: dict[str, Any] = scope.setdefault("llmc.notes", {})
            notes["trace"] = f"{span.get_span_context().trace_id:032x}"
            try:
                await self.app(scope, receive, _watched(span, send))
            finally:
                _take_notes(span, notes)


def _watched(span: Span, send: Send) -> Send:
    """`send`, noting the status and when the first of the answer goes out."""
    has_begun = False

    async def send_and_look(message: Message) -> None:
        nonlocal has_begun
        if message["type"] == "http.response.start":
            span.set_attribute("http.response.status_code", message["status"])
            if message["status"] >= 500:
                span.set_status(StatusCode.ERROR)
        elif message.get("body") and not has_begun:
            has_begun = True
            span.add_event("first output")
        await send(message)

    return send_and_look


def _take_notes(span: Span, notes: dict[str, Any]) -> None:
    for name, attribute in NOTED.items():
        if name in notes:
            span.set_attribute(attribute, notes[name])
    if finish := notes.get("finish"):
        span.set_attribute("gen_ai.response.finish_reasons", finish.split(","))
        if finish == "error":
            span.set_status(StatusCode.ERROR)
