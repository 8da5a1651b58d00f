"""The API's description in OpenAPI 3.1, made from what checks the requests: the classes of requests.py and the table of fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import CHAT, COMPLETION, CONTENT_PART, MESSAGE, STREAM_OPTIONS, Fields, Refused
from .requests import MAX_BIASES, ChatRequest, CompletionRequest, Message, SamplingRequest, StreamOptions, Strict

Json = dict[str, Any]
ROUTES = {  # path -> (method, what it does)
    "/v1/models": ("get", "The model that is served"),
    "/v1/models/{name}": ("get", "The same by name"),
    "/v1/completions": ("post", "Continue a text"),
    "/v1/chat/completions": ("post", "Answer in a conversation"),
    "/metrics": ("get", "Metrics in Prometheus' text format"),
    "/openapi.json": ("get", "This description"),
    "/health/live": ("get", "503 once only a new process helps"),
    "/health/ready": ("get", "503 while requests would be turned away"),
    "/health/progress": ("get", "The scheduler's heartbeat"),
}


def description(*, name: str, num_tokens: int, max_seq_len: int, has_chat: bool) -> Json:
    """What a server of this model accepts and answers.

    Args:
        num_tokens: size of the vocabulary.
        has_chat: whether conversations can be rendered.
    """
    requests = {
        "/v1/completions": _completion(name, num_tokens=num_tokens, max_seq_len=max_seq_len),
        "/v1/chat/completions": _chat(name, num_tokens=num_tokens, max_seq_len=max_seq_len),
    }
    paths = {
        path: {method: _operation(path, summary, requests.get(path))} for path, (method, summary) in ROUTES.items()
    }
    paths["/v1/models/{name}"]["get"]["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"const": name}}
    ]
    if not has_chat:
        del paths["/v1/chat/completions"]
    return {"openapi": "3.1.0", "info": {"title": name, "version": "1"}, "paths": paths}


def _operation(path: str, summary: str, request: Json | None) -> Json:
    answers = {"200": {"description": "The answer", "content": _content(path)}}
    error = {"description": "An error", "content": {"application/json": {"schema": ERROR}}}
    if request is not None:
        answers |= dict.fromkeys(("400", "408", "413", "415", "429", "500", "503"), error)
    elif path.startswith("/health"):
        answers["503"] = {"description": "No", "content": _content(path)}
    answers |= dict.fromkeys(("401", "404"), error)
    found: Json = {"summary": summary, "operationId": path.strip("/").replace("/", "_"), "responses": answers}
    if request is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": request}}}
    return found


def _content(path: str) -> Json:
    if path == "/metrics":
        return {"text/plain": {}}
    if path in ("/v1/completions", "/v1/chat/completions"):
        return {"application/json": {"schema": ANSWER}, "text/event-stream": {}}
    return {"application/json": {"schema": {"type": "object"}}}


ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ANSWER: Json = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {"choices": {"type": "array", "minItems": 1}},
}


def _completion(name: str, *, num_tokens: int, max_seq_len: int) -> Json:
    token_ids = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": num_tokens - 1},
        "minItems": 1,
        "maxItems": max_seq_len,
    }
    text = {"type": "string", "minLength": 1}
    schema = _object(CompletionRequest, COMPLETION, name=name, num_tokens=num_tokens)
    schema["properties"]["max_tokens"] = _nullable({"type": "integer", "minimum": 1, "maximum": max_seq_len - 1})
    schema["required"] = ["model", "prompt"]
    schema["properties"]["prompt"] = {
        "anyOf": [
            text,
            token_ids,
            {"type": "array", "items": text, "minItems": 1},
            {"type": "array", "items": token_ids, "minItems": 1},
        ]
    }
    schema["allOf"].append(_not_both("echo", [True], "logprobs"))
    return schema


def _chat(name: str, *, num_tokens: int, max_seq_len: int) -> Json:
    part = {
        "type": "object",
        "required": ["type", "text"],
        "additionalProperties": False,
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}} | _refused(CONTENT_PART),
    }
    message = _schema_of(Message)
    message["required"] = ["role", "content"]
    message["properties"] |= {"content": {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}}
    message["properties"] |= _refused(MESSAGE)
    schema = _object(ChatRequest, CHAT, name=name, num_tokens=num_tokens)
    for field in ("max_tokens", "max_completion_tokens"):
        schema["properties"][field] = _nullable({"type": "integer", "minimum": 1, "maximum": max_seq_len - 1})
    schema["required"] = ["model", "messages"]
    schema["properties"]["messages"] = {"type": "array", "minItems": 1, "items": message}
    schema["allOf"] += [_needs("top_logprobs", "logprobs"), _not_both("max_tokens", None, "max_completion_tokens")]
    return schema


def _object(request: type[SamplingRequest], fields: Fields, *, name: str, num_tokens: int) -> Json:
    """The schema of a body: what is implemented, what is accepted of what is not, and nothing else."""
    schema = _schema_of(request)
    properties = schema["properties"]
    for field, value in properties.items():
        if field not in ("model", "prompt", "messages"):
            properties[field] = {"anyOf": [value, {"type": "null"}]}  # null means "not given"
    properties["model"] = {"const": name}
    options = _schema_of(StreamOptions)
    options["properties"] = {field: _nullable(value) for field, value in options["properties"].items()}
    options["properties"] |= _refused(STREAM_OPTIONS)
    properties["stream_options"] = _nullable(options)
    properties["logit_bias"] = _nullable(_biases(num_tokens))
    properties |= _refused(fields)
    schema["allOf"] = [_needs("stream_options", "stream")]
    return schema


def _biases(num_tokens: int) -> Json:
    """Token ids to numbers; the ids of a small vocabulary one by one, of a large one by how they look."""
    ids: Json = {"pattern": "^(0|[1-9][0-9]{0,8})$"}
    if num_tokens <= 1000:
        ids = {"enum": [str(token) for token in range(num_tokens)]}
    bias = {"type": "number", "minimum": -100, "maximum": 100}
    return {"type": "object", "additionalProperties": bias, "maxProperties": MAX_BIASES, "propertyNames": ids}


def _schema_of(model: type[Strict]) -> Json:
    schema = model.model_json_schema()
    schema.pop("$defs", None)
    for value in (schema, *schema["properties"].values()):
        for word in ("title", "default", "description"):
            value.pop(word, None)
    return schema


def _refused(fields: Mapping[str, Any]) -> Json:
    """Fields that are not implemented, with the values that ask for what happens anyway."""
    return {field: {"enum": [None, *found.accepts]} for field, found in fields.items() if isinstance(found, Refused)}


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _absent(field: str) -> Json:
    return {"properties": {field: {"type": "null"}}}


def _needs(field: str, other: str) -> Json:
    """`field` may be given where `other` is true."""
    return {"anyOf": [_absent(field), {"properties": {other: {"const": True}}, "required": [other]}]}


def _not_both(field: str, values: list[Any] | None, other: str) -> Json:
    """Of two fields one at most; `values` are those of the first that count, None means all."""
    without = _absent(field) if values is None else {"properties": {field: {"not": {"enum": values}}}}
    return {"anyOf": [without, _absent(other)]}
