"""Bodies of requests: parsed strictly, checked field by field, turned into values the engine knows.

`fields.py` says which fields there are; the classes here have exactly its implemented ones (a test compares), with their
types and bounds. A number in quotes is not a number, and null means "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from .errors import ApiError
from .fields import CHAT, COMPLETION, CONTENT_PART, MESSAGE, STREAM_OPTIONS, Fields, check_fields
from .generation import Sampling

MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_BIASES = 1024

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Text = Annotated[str, Field(max_length=512)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Strict):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingRequest(Strict):
    """What both kinds of requests have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = []
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, ge=0.01, le=10)  # smaller ones leave the range of floats
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=MAX_BIASES)
    ignore_eos: bool = False
    priority: int = Field(0, ge=-100, le=100)
    user: Text | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_logprobs(self) -> int | None:
        raise NotImplementedError

    @property
    def wanted_tokens(self) -> int | None:
        """Tokens of the answer, if the request says."""
        raise NotImplementedError

    def sampling(self, *, num_tokens: int) -> Sampling:
        """How to sample from a vocabulary of `num_tokens`."""
        return Sampling(
            temperature=self.temperature,
            top_k=_top_k(self.top_k, num_tokens),
            top_p=None if self.top_p == 1 else self.top_p,
            min_p=None if self.min_p == 0 else self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=tuple((_token_id(key, num_tokens), bias) for key, bias in self.logit_bias.items()),
            num_logprobs=self.num_logprobs,
            seed=self.seed,
        )


class CompletionRequest(SamplingRequest):
    prompt: Any  # checked by `prompts`
    max_tokens: int = Field(16, ge=1)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if "max_tokens" in self.model_fields_set else None

    def prompts(self) -> list[str | list[int]]:
        """One entry for each prompt: text, or token ids."""
        prompt = self.prompt
        if isinstance(prompt, str) or _is_token_list(prompt):
            return [prompt]
        if isinstance(prompt, list) and prompt and (_all(prompt, str) or all(map(_is_token_list, prompt))):
            return prompt
        raise ApiError(
            "prompt must be text, a list of texts, a list of token ids or a list of those, and not empty",
            param="prompt",
        )


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Any  # checked by `text`

    def text(self, where: str) -> str:
        """The content, with its parts joined."""
        if isinstance(self.content, str):
            return self.content
        if not isinstance(self.content, list):
            raise ApiError(f"{where}content must be text or a list of parts", param=f"{where}content")
        return "".join(_part_text(part, f"{where}content.{at}.") for at, part in enumerate(self.content))


class ChatRequest(SamplingRequest):
    messages: list[Any] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    safety_identifier: Text | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    def conversation(self) -> list[dict[str, str]]:
        """The messages as chat templates expect them. `developer` is the newer name of `system`."""
        messages = []
        for at, raw in enumerate(self.messages):
            where = f"messages.{at}."
            message = _parse(Message, MESSAGE, raw, where=where)
            role = "system" if message.role == "developer" else message.role
            messages.append({"role": role, "content": message.text(where)})
        return messages


def parse_completion(body: bytes) -> CompletionRequest:
    request = _parse(CompletionRequest, COMPLETION, _json(body))
    if request.echo and request.logprobs is not None:
        raise ApiError("echo with logprobs is not supported: prompts have no log-probabilities", param="echo")
    return _checked(request)


def parse_chat(body: bytes) -> ChatRequest:
    request = _parse(ChatRequest, CHAT, _json(body))
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    if None not in (request.max_tokens, request.max_completion_tokens):
        raise ApiError("give max_completion_tokens or max_tokens, not both", param="max_tokens")
    return _checked(request)


Request = TypeVar("Request", bound=SamplingRequest)
Model = TypeVar("Model", bound=Strict)


def _checked(request: Request) -> Request:
    if request.stream_options is not None and not request.stream:
        raise ApiError("stream_options needs stream: true", param="stream_options")
    return request


def _json(body: bytes) -> Any:
    try:
        return _whole_numbers(from_json(body, allow_inf_nan=False))
    except ValueError as error:
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from None


def _whole_numbers(value: Any) -> Any:
    """JSON has one kind of numbers: 3.0 is the integer 3."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [item if type(item) is int else _whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    return value


def _parse(model: type[Model], fields: Fields, value: Any, *, where: str = "") -> Model:
    """A validated object; the first error names its field."""
    if not isinstance(value, dict):
        raise ApiError(f"{where.rstrip('.') or 'the body'} must be a JSON object", param=where.rstrip(".") or None)
    wanted = check_fields(value, fields, where=where)
    options = wanted.get("stream_options")
    if isinstance(options, dict):
        wanted["stream_options"] = check_fields(options, STREAM_OPTIONS, where="stream_options.")
    try:
        return model.model_validate(wanted)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = where + ".".join(str(part) for part in first["loc"] if _is_ours(part))
        raise ApiError(f"{name}: {first['msg']}", param=name) from None


def _is_ours(part: str | int) -> bool:
    """Whether a piece of pydantic's location is a name of the request, and not of a member of a union."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("str",))


def _part_text(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise ApiError(f"{where.rstrip('.')} must be a JSON object", param=where.rstrip("."))
    if part.get("type") != "text":
        raise ApiError(f"{where}type: only text is supported", param=f"{where}type", code="unsupported_field")
    text = check_fields(part, CONTENT_PART, where=where).get("text")
    if not isinstance(text, str):
        raise ApiError(f"{where}text must be text", param=f"{where}text")
    return text


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _all(values: list[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def _top_k(value: int | None, num_tokens: int) -> int | None:
    """None for "all of them", which vLLM's clients write as -1 or 0; JSON has integers that a tensor cannot hold."""
    return None if value is None or value < 1 or value >= num_tokens else value


def _token_id(key: str, num_tokens: int) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < num_tokens and str(int(key)) == key):
        raise ApiError(f"logit_bias: {key[:64]!r} is not a token id below {num_tokens}", param="logit_bias")
    return int(key)
