"""From a request to generations: limits on the body, the model's name, tokens, room in the context."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import Request

from .chat import ChatTemplate
from .engine import Engine, EngineDown
from .errors import ApiError
from .generation import Generation, generator_for
from .metrics import Metrics
from .requests import SamplingRequest
from .scheduler import Overloaded
from .text import TextStream
from .vocabulary import Vocabulary

BODY_TIMEOUT_S = 30
MAX_BODY_BYTES = 4 * 2**20
ENCODE_ELSEWHERE_CHARS = 4096  # longer texts are tokenized on another thread, so that streams do not stutter


@dataclass(frozen=True)
class Service:
    """What the routes need."""

    name: str  # of the model, as clients ask for it
    engine: Engine
    vocabulary: Vocabulary
    metrics: Metrics
    chat_template: ChatTemplate | None = None
    max_body_bytes: int = MAX_BODY_BYTES

    @property
    def max_seq_len(self) -> int:
        return self.engine.scheduler.max_seq_len


async def read_body(request: Request, service: Service) -> bytes:
    """The body, if it is JSON and neither too long nor too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # also what keeps a web page from posting here unasked: browsers ask first for this type only
        raise ApiError("send JSON, with the header content-type: application/json", status=415, code="not_json")
    return await bounded_body(request, limit=service.max_body_bytes)


async def bounded_body(request: Request, *, limit: int) -> bytes:
    """The body, if it is neither longer than `limit` bytes nor too slow."""
    too_long = ApiError(
        f"the body is longer than {limit} bytes", status=413, code="body_too_long", headers={"connection": "close"}
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        raise ApiError(f"the body did not come within {BODY_TIMEOUT_S} s", status=408) from None
    return bytes(body)


def check_model(service: Service, name: str) -> None:
    if name != service.name:
        raise ApiError(
            f"there is no model {name[:200]!r} here, only {service.name!r}",
            status=404,
            param="model",
            code="model_not_found",
        )


def check_room(service: Service, *, num_generations: int) -> None:
    """Refuse what would be refused anyway, before its prompt is rendered and tokenized: under overload most are."""
    with refusals(service.engine):
        service.engine.check_room(num_generations)


@contextlib.contextmanager
def refusals(engine: Engine) -> Iterator[None]:
    """What a client is told when the engine takes no more."""
    try:
        yield
    except Overloaded as error:
        headers = {"retry-after": str(engine.retry_after_s())}
        raise ApiError(f"the server is busy: {error}", status=429, code="overloaded", headers=headers) from None
    except EngineDown as error:
        raise ApiError(str(error), status=503, code="engine_down") from None


async def encode(service: Service, text: str, *, add_special: bool) -> list[int]:
    if len(text) <= ENCODE_ELSEWHERE_CHARS:
        return service.vocabulary.encode(text, add_special=add_special)
    return await asyncio.to_thread(service.vocabulary.encode, text, add_special=add_special)


async def prompt_tokens(service: Service, prompt: str | list[int]) -> list[int]:
    """A prompt of /v1/completions as tokens. An empty one begins as a document does, if the tokenizer says how."""
    vocabulary = service.vocabulary
    if isinstance(prompt, str):
        tokens = await encode(service, prompt, add_special=True)
    elif all(0 <= token < vocabulary.num_tokens for token in prompt):
        tokens = prompt
    else:
        raise ApiError(f"prompt: token ids are from 0 to {vocabulary.num_tokens - 1}", param="prompt")
    if tokens:
        return tokens
    if vocabulary.bos is None:
        raise ApiError("prompt is empty, and this model has no token that begins a text", param="prompt")
    return [vocabulary.bos]


def echo(service: Service, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return b"".join(map(service.vocabulary.piece, prompt)).decode("utf-8", "replace")


def generations_for(
    service: Service,
    body: SamplingRequest,
    prompts: list[list[int]],
    *,
    default_tokens: int | None,
    owner: str = "",
) -> list[Generation]:
    """n choices of each prompt. Without a wish, an answer may have `default_tokens`, or all the room there is.

    Cached prefixes are shared between requests of one owner of an API key only: how long a first token takes tells whether
    its prompt was seen before.
    """
    most = service.engine.scheduler.max_request
    if len(prompts) * body.n > most:
        raise ApiError(
            f"{len(prompts)} prompts with n = {body.n} are more than the {most} answers this server takes at once",
            param="n" if len(prompts) == 1 else "prompt",
        )
    sampling = body.sampling(num_tokens=service.vocabulary.num_tokens)
    eos = frozenset() if body.ignore_eos else service.vocabulary.eos
    return [
        Generation(
            tokens=list(prompt),
            num_prompt=len(prompt),
            max_tokens=_max_tokens(service, len(prompt), body.wanted_tokens, default_tokens),
            sampling=sampling,
            eos=eos,
            text=TextStream(service.vocabulary.piece, body.stops),
            index=at * body.n + choice,
            priority=-body.priority,
            salt=owner.encode(),
            rng=generator_for(body.seed, choice=choice),
        )
        for at, prompt in enumerate(prompts)
        for choice in range(body.n)
    ]


def _max_tokens(service: Service, num_prompt: int, wanted: int | None, default: int | None) -> int:
    room = service.max_seq_len - num_prompt
    if room < 1 or (wanted is not None and wanted > room):
        raise ApiError(
            f"the prompt has {num_prompt} tokens and the answer may have {wanted or 1}, "
            f"but the model's context is {service.max_seq_len} tokens",
            param="messages" if default is None else "prompt",
            code="context_length_exceeded",
        )
    return wanted or min(default or room, room)
