"""The OpenAI-compatible API.

One call, read from top to bottom: `read_body` (limits), `parse_…` (fields), `check_room` (429 where all would be refused), tokens,
`generations_for` (room in the context), and `respond`: submit or 429, then collect or stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .access import AccessLog, note
from .engine import Engine
from .errors import ApiError, error_body
from .intake import Service, check_model, check_room, echo, encode, generations_for, prompt_tokens, read_body
from .openapi import description
from .requests import parse_chat, parse_completion
from .respond import respond
from .responses import ChatAnswer, CompletionAnswer, model_card, model_list

CLOSED_BY_CLIENT = 499  # nobody reads it; nginx's status for the log


def create_app(service: Service, middleware: Sequence[Middleware] = (), *, further: Sequence[Route] = ()) -> Starlette:
    """The ASGI application. Its lifespan starts and stops the engine; `middleware` stands between the log and the routes.

    `further` are routes beside the API: the chat page.
    """
    routes = [
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{name:path}", _model, methods=["GET"]),
        Route("/v1/completions", _completions, methods=["POST"]),
        Route("/v1/chat/completions", _chat_completions, methods=["POST"]),
        Route("/health/live", _live, methods=["GET"]),
        Route("/health/ready", _ready, methods=["GET"]),
        Route("/health/progress", _progress, methods=["GET"]),
        Route("/metrics", _metrics, methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        *further,
    ]
    app = Starlette(
        routes=routes,
        lifespan=_lifespan,
        middleware=[
            Middleware(AccessLog, metrics=service.metrics, routes={r.endpoint: r.path for r in routes}),
            *middleware,
        ],
        exception_handlers=exception_handlers(),
    )
    app.router.redirect_slashes = False  # a route has one spelling
    app.state.service = service
    app.state.created = int(time.time())
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.engine.start()
    watch = asyncio.create_task(_watch(service.engine))
    try:
        yield
    finally:
        watch.cancel()
        if service.chat_template is not None:
            await service.chat_template.close()
        await asyncio.to_thread(service.engine.stop)


async def _watch(engine: Engine) -> None:
    """Ends the requests of an engine that is stuck."""
    while True:
        await asyncio.sleep(min(1.0, engine.stall_s / 2))
        engine.end_if_stalled()


# --- routes ---------------------------------------------------------------------------------------------------


async def _completions(request: Request) -> Response:
    service = _service(request)
    body = parse_completion(await read_body(request, service))
    check_model(service, body.model)
    if any(isinstance(prompt, str) for prompt in body.prompts()):
        check_room(service, num_generations=body.n * len(body.prompts()))
    prompts = [await prompt_tokens(service, prompt) for prompt in body.prompts()]
    answer = CompletionAnswer(
        service.name,
        service.vocabulary,
        num_prompt_tokens=sum(map(len, prompts)),
        wants_logprobs=body.logprobs is not None,
    )
    if body.echo:
        answer.echoes = [echo(service, given) for given in body.prompts() for _ in range(body.n)]
    note(request, user=body.user)
    generations = generations_for(service, body, prompts, default_tokens=body.max_tokens, owner=_owner(request))
    return await respond(request, service.engine, body, answer, generations)


async def _chat_completions(request: Request) -> Response:
    service = _service(request)
    body = parse_chat(await read_body(request, service))
    check_model(service, body.model)
    check_room(service, num_generations=body.n)
    messages = body.conversation()
    if service.chat_template is None:
        raise ApiError(
            f"{service.name} has no chat template; use /v1/completions, or serve a checkpoint that has one",
            param="messages",
            code="no_chat_template",
        )
    text = await service.chat_template.render(messages)
    prompt = await encode(service, text, add_special=False)  # the template writes the special tokens itself
    answer = ChatAnswer(service.name, service.vocabulary, num_prompt_tokens=len(prompt), wants_logprobs=body.logprobs)
    if body.service_tier is not None:
        answer.extra["service_tier"] = "default"
    note(request, user=body.user, safety_identifier=body.safety_identifier)
    generations = generations_for(service, body, [prompt], default_tokens=None, owner=_owner(request))
    return await respond(request, service.engine, body, answer, generations)


async def _models(request: Request) -> Response:
    service = _service(request)
    created = request.app.state.created
    return JSONResponse(model_list(service.name, created=created, max_seq_len=service.max_seq_len))


async def _model(request: Request) -> Response:
    service = _service(request)
    check_model(service, request.path_params["name"])
    created = request.app.state.created
    return JSONResponse(model_card(service.name, created=created, max_seq_len=service.max_seq_len))


async def _live(request: Request) -> Response:
    """503 once only a new process helps."""
    status = _service(request).engine.health().status
    return JSONResponse({"status": status}, status_code=503 if status == "failed" else 200)


async def _ready(request: Request) -> Response:
    """503 while requests would be turned away."""
    status = _service(request).engine.health().status
    return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)


async def _progress(request: Request) -> Response:
    """The scheduler's heartbeat: 503 when a step has not come back in time. An engine with nothing to do is well."""
    health = _service(request).engine.health()
    body = {"status": health.status, "steps": health.num_steps, "step_age_seconds": round(health.step_age_s, 3)}
    return JSONResponse(body, status_code=200 if health.status == "ok" else 503)


async def _metrics(request: Request) -> Response:
    text, content_type = _service(request).metrics.exposition()
    return Response(text, media_type=content_type)


async def _openapi(request: Request) -> Response:
    service = _service(request)
    return JSONResponse(
        description(
            name=service.name,
            num_tokens=service.vocabulary.num_tokens,
            max_seq_len=service.max_seq_len,
            has_chat=service.chat_template is not None,
        )
    )


def _service(request: Request) -> Service:
    return request.app.state.service


def _owner(request: Request) -> str:
    """Whose API key it was, where keys are asked for."""
    return request.scope.get("llmc.owner", "")


# --- errors ---------------------------------------------------------------------------------------------------


def exception_handlers() -> dict[Any, Any]:
    """Exception -> what its client is told."""
    return {
        ApiError: _on_api_error,
        HTTPException: _on_http_error,
        ClientDisconnect: _on_disconnect,
        Exception: _on_bug,
    }


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    message = {404: "there is no such route", 405: "this route has another method"}.get(error.status_code)
    body = error_body(message or error.detail, status=error.status_code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED_BY_CLIENT)


async def _on_bug(request: Request, error: Exception) -> Response:
    """A fault of ours. Starlette raises it again after this answer, so the log has the traceback."""
    return JSONResponse(error_body("internal error", status=500), status_code=500)
