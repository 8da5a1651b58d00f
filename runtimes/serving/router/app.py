"""The router's routes: those of a server, passed on, and probes and metrics of its own."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..access import AccessLog
from ..api import exception_handlers
from ..intake import MAX_BODY_BYTES, bounded_body
from ..metrics import ROUTER_METRICS, Metrics
from ..respond import unless_disconnected
from .beginning import beginning
from .fleet import Fleet
from .forward import Call, Links, passed_on
from .probes import Probes
from .replicas import Prefixes, Replica, Replicas

PASSED_ON = (
    ("/v1/models", "GET"),
    ("/v1/models/{name:path}", "GET"),
    ("/v1/completions", "POST"),
    ("/v1/chat/completions", "POST"),
    ("/openapi.json", "GET"),
)


def create_router(
    replicas: Sequence[Replica],
    *,
    fleet: Fleet | None = None,
    knows_prefixes: bool = False,
    certificate: bytes | None = None,
    middleware: Sequence[Middleware] = (),
    further: Sequence[str] = (),
) -> Starlette:
    """The ASGI application before some replicas.

    Args:
        fleet: starts and stops the replicas; None where somebody else does.
        knows_prefixes: prompts that begin alike go to the same replica, whose cache has the beginning.
        certificate: of replicas that speak HTTPS, in DER.
        middleware: between the log and the routes.
        further: paths of the replicas beside their API: the chat page.
    """
    metrics = Metrics(table=ROUTER_METRICS)
    links = Links(Replicas(replicas, prefixes=Prefixes() if knows_prefixes else None), metrics, certificate=certificate)
    _track(metrics, links.replicas)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        probes = Probes(links)
        await links.open()
        try:
            async with fleet or contextlib.nullcontext():
                await probes.start()
                try:
                    yield
                finally:
                    await probes.stop()
        finally:
            await links.close()

    paths = (*PASSED_ON, *((path, "GET") for path in further))
    routes = [Route(path, functools.partial(_pass_on, links), methods=[method]) for path, method in paths]
    routes += [
        Route("/health/live", _live, methods=["GET"]),
        Route("/health/ready", functools.partial(_ready, links.replicas), methods=["GET"]),
        Route("/health/progress", functools.partial(_progress, links.replicas), methods=["GET"]),
        Route("/metrics", functools.partial(_metrics, metrics), methods=["GET"]),
    ]
    log = Middleware(
        AccessLog,
        metrics=metrics,
        routes={route.endpoint: route.path for route in routes},
        counter="llmc_router_responses_total",
    )
    app = Starlette(
        routes=routes, lifespan=lifespan, middleware=[log, *middleware], exception_handlers=exception_handlers()
    )
    app.router.redirect_slashes = False  # a route has one spelling
    return app


async def _pass_on(links: Links, request: Request) -> Response:
    body = await bounded_body(request, limit=MAX_BODY_BYTES)
    has_prefixes = links.replicas.prefixes is not None and request.method == "POST"
    target = request.scope["raw_path"].decode("ascii")
    call = Call(
        method=request.method,
        target=f"{target}?{request.url.query}" if request.url.query else target,
        headers=passed_on(request.headers, client=request.client.host if request.client else ""),
        body=body,
        digests=beginning(body, request.headers.get("authorization", "")) if has_prefixes else [],
    )
    return await unless_disconnected(request, links.answer(call))


async def _live(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(replicas: Replicas, request: Request) -> Response:
    """503 while nobody can be asked."""
    is_ready = bool(replicas.able(time.monotonic()))
    return JSONResponse({"status": "ok" if is_ready else "no_replica"}, status_code=200 if is_ready else 503)


async def _progress(replicas: Replicas, request: Request) -> Response:
    """How the replicas are; 503 when none of them makes progress."""
    states = [each.state for each in replicas.all]
    counts = {state: states.count(state) for state in ("ready", "out", "stuck")}
    status = "ok" if counts["ready"] == len(states) else "degraded" if counts["ready"] else "no_replica"
    return JSONResponse({"status": status, **counts}, status_code=200 if counts["ready"] else 503)


async def _metrics(metrics: Metrics, request: Request) -> Response:
    text, content_type = metrics.exposition()
    return Response(text, media_type=content_type)


def _track(metrics: Metrics, replicas: Replicas) -> None:
    for reason in ("unreached", "full", "failed", "lost"):
        metrics.add("llmc_router_retries_total", 0, reason=reason)
    for each in replicas.all:
        name = str(each.number)
        metrics.track("llmc_router_replica_ready", lambda each=each: float(each.state == "ready"), replica=name)
        metrics.track("llmc_router_replica_requests", lambda each=each: float(each.load), replica=name)
