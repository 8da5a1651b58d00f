"""What the server's API asks of its clients, and which of them it lets in. What is not declared is not in the program."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import Node
from .units import Count, Flag

Origin = Annotated[str, Field(pattern=r"^(https?://[^/\s*]+|\*)$")]


class Api(Node):
    """Who may call, and how often."""

    keys: Flag = Field(
        default=False, description="Requests need a key; the server reads their SHA-256 from the file of --keys."
    )
    requests_per_minute: Count | None = Field(
        default=None, description="Calls that one key may make, or one address where no keys are asked."
    )
    tls: Flag = Field(default=False, description="HTTPS, with the certificate of --tls-cert and --tls-key.")
    cors: tuple[Origin, ...] = Field(
        default=(), description="Web pages of these origins may call, such as https://chat.example."
    )
    tracing: Flag = Field(
        default=False,
        description="OpenTelemetry: a span for each completion, sent where OTEL_EXPORTER_OTLP_ENDPOINT says.",
    )
