"""From generations to a response: everything at the end, or an event for each piece.

Whatever ends a response early (the client goes away, the server stops) cancels its generations.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .access import note
from .engine import Delta, Engine
from .errors import ApiError, error_body
from .generation import Generation
from .intake import refusals
from .mailbox import Mailbox
from .requests import SamplingRequest, StreamOptions
from .responses import DONE, Answer, Choice, event

Result = TypeVar("Result")


async def respond(
    request: Request, engine: Engine, body: SamplingRequest, answer: Answer, generations: list[Generation]
) -> Response:
    """Submit the generations and answer with what comes of them, whole or as a stream."""
    mailbox = Mailbox()
    with refusals(engine):
        engine.submit(generations, mailbox.post)
    choices = [Choice() for _ in generations]
    note(request, prompt_tokens=answer.num_prompt_tokens)
    if body.stream:
        events = _events(answer, choices, mailbox, options=body.stream_options or StreamOptions())
        return EventStream(events, request=request, engine=engine, generations=generations, choices=choices)
    try:
        await unless_disconnected(request, _collect(choices, mailbox))
    finally:
        engine.cancel(generations)
        _note_end(request, choices)
    return JSONResponse(answer.whole(choices))


async def _collect(choices: list[Choice], mailbox: Mailbox) -> None:
    """Wait until all choices are finished."""
    async for delta in _deltas(choices, mailbox):
        if delta.error is not None:
            raise ApiError(delta.error, status=500, code="generation_failed")


async def _deltas(choices: list[Choice], mailbox: Mailbox) -> AsyncIterator[Delta]:
    """All deltas until every choice is finished, each already added to its choice."""
    num_open = len(choices)
    while num_open:
        for delta in await mailbox.get():
            choices[delta.index].add(delta)
            num_open -= delta.finish is not None
            yield delta


async def _events(
    answer: Answer, choices: list[Choice], mailbox: Mailbox, *, options: StreamOptions
) -> AsyncIterator[bytes]:
    """The events of a streamed answer. An error is an event too, and ends the stream without `[DONE]`.

    Nothing is sent before there is something to say: until then a router may ask another server instead.
    """
    is_open = False
    async for delta in _deltas(choices, mailbox):
        if delta.error is not None:
            yield event(error_body(delta.error, status=500, code="generation_failed"))
            return
        if not is_open:
            is_open = True
            for index in range(len(choices)):
                if (opening := answer.opening(index)) is not None:
                    yield event({**opening, **_usage_so_far(answer, choices, options)})
        yield event({**answer.chunk(delta), **_usage_so_far(answer, choices, options)})
    if options.include_usage:
        yield event(answer.last_chunk(choices))
    yield DONE


def _usage_so_far(answer: Answer, choices: list[Choice], options: StreamOptions) -> dict[str, Any]:
    """What an event says of the usage; where only the last one tells it, it is null before."""
    if options.continuous_usage_stats:
        return {"usage": answer.usage(choices)}
    return {"usage": None} if options.include_usage else {}


class EventStream(StreamingResponse):
    """Server-sent events; when the response ends, however it ends, its generations do."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        request: Request,
        engine: Engine,
        generations: list[Generation],
        choices: list[Choice],
    ) -> None:
        # `x-accel-buffering` tells nginx to pass events on as they come
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._request = request
        self._engine = engine
        self._generations = generations
        self._choices = choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._engine.cancel(self._generations)
            _note_end(self._request, self._choices)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, or give it up with ClientDisconnect when the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        task.cancel()
        watch.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _note_end(request: Request, choices: list[Choice]) -> None:
    note(
        request,
        completion_tokens=sum(choice.num_tokens for choice in choices),
        finish=",".join(sorted({choice.finish or "cancelled" for choice in choices})),
    )
