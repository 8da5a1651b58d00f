"""One line of JSON in the log for each response, and the count of responses."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics

log = logging.getLogger("llmc.serving.access")
QUIET = (
    "/health/live",
    "/health/ready",
    "/health/progress",
    "/metrics",
)  # asked for every few seconds: counted, not logged


def note(request: Request, **values: Any) -> None:
    """Add values to the log line of a request."""
    notes = request.scope.setdefault("llmc.notes", {})
    notes.update({name: value for name, value in values.items() if value is not None})


class AccessLog:
    """ASGI middleware. Gives every response an `x-request-id`."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, routes: Mapping[Any, str], counter: str = "llmc_http_responses_total"
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.counter = counter
        self.routes = routes  # handler -> path: a label must not be something that clients make up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_s = time.monotonic()
        request_id = uuid.uuid4().hex
        status = 500  # if the application fails before it answers

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        notes = scope.setdefault("llmc.notes", {})
        try:
            await self.app(scope, receive, send_and_look)
        finally:
            route = self.routes.get(scope.get("endpoint"), "other")
            self.metrics.add(self.counter, route=route, status=str(status))
            if route not in QUIET:
                seconds = round(time.monotonic() - began_s, 4)
                line = {"id": request_id, "method": scope["method"], "route": route, "status": status}
                log.info(json.dumps({**line, "seconds": seconds, **notes}))
