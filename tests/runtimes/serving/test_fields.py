"""Every field of the official client's request types is honoured or refused by name; what we claim to honour is parsed."""

from __future__ import annotations

import json
import typing

import pytest
from openai.types import chat, completion_create_params
from openai.types.chat import completion_create_params as chat_params

from llmc.runtimes.serving import fields
from llmc.runtimes.serving.errors import ApiError
from llmc.runtimes.serving.fields import Implemented, Refused
from llmc.runtimes.serving.requests import (
    ChatRequest,
    CompletionRequest,
    Message,
    StreamOptions,
    parse_chat,
    parse_completion,
)

COMPLETION = {"model": "tiny", "prompt": "a"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
ROUTES = {
    "completion": (parse_completion, COMPLETION, fields.COMPLETION),
    "chat": (parse_chat, CHAT, fields.CHAT),
}


def names(*types: type) -> set[str]:
    return {name for kind in types for name in typing.get_type_hints(kind, include_extras=True)}


def parse(route: str, **changes: object):
    parser, body, _ = ROUTES[route]
    return parser(json.dumps({**body, **changes}).encode())


def refusal(route: str, **changes: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(route, **changes)
    return caught.value


def cases(kind: type) -> list:
    return [
        pytest.param(route, name, id=f"{route}-{name}")
        for route, (_, _, table) in ROUTES.items()
        for name, field in table.items()
        if isinstance(field, kind)
    ]


def test_no_field_of_the_official_completion_request_is_unknown():
    known = completion_create_params
    theirs = names(known.CompletionCreateParamsNonStreaming, known.CompletionCreateParamsStreaming)
    assert theirs <= set(fields.COMPLETION)


def test_no_field_of_the_official_chat_request_is_unknown():
    theirs = names(chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming)
    assert theirs <= set(fields.CHAT)


def test_no_field_of_official_messages_is_unknown():
    theirs = names(*typing.get_args(chat.ChatCompletionMessageParam))
    assert theirs <= set(fields.MESSAGE)
    assert names(chat.ChatCompletionContentPartTextParam) <= set(fields.CONTENT_PART)
    assert names(chat.ChatCompletionStreamOptionsParam) <= set(fields.STREAM_OPTIONS)


@pytest.mark.parametrize(
    ("model", "table"),
    [
        (CompletionRequest, fields.COMPLETION),
        (ChatRequest, fields.CHAT),
        (Message, fields.MESSAGE),
        (StreamOptions, fields.STREAM_OPTIONS),
    ],
)
def test_what_is_implemented_is_what_is_parsed(model, table):
    assert set(model.model_fields) == {name for name, field in table.items() if isinstance(field, Implemented)}


@pytest.mark.parametrize(("route", "name"), cases(Refused))
def test_a_refused_field_is_named(route: str, name: str):
    error = refusal(route, **{name: "something"})
    assert (error.status, error.param, error.code) == (400, name, "unsupported_field")
    assert error.message.startswith(f"{name} is not supported: ")


@pytest.mark.parametrize(("route", "name"), cases(Refused))
def test_a_refused_field_may_ask_for_nothing(route: str, name: str):
    for value in (None, *ROUTES[route][2][name].accepts):
        assert parse(route, **{name: value}) == parse(route)


@pytest.mark.parametrize(
    ("route", "name"), [("completion", "best_of"), ("chat", "store"), ("chat", "parallel_tool_calls")]
)
def test_one_is_not_true_and_zero_is_not_false(route: str, name: str):
    value = {"best_of": True, "store": 0, "parallel_tool_calls": 1}[name]
    assert refusal(route, **{name: value}).param == name


def test_an_unknown_field_is_named_with_the_closest_known_one():
    error = refusal("completion", temperatur=1)
    assert (error.param, error.message) == ("temperatur", "unknown field: temperatur; did you mean temperature?")


WRONG = [
    ("completion", {"temperature": 3}, "temperature"),
    ("completion", {"temperature": "1"}, "temperature"),
    ("completion", {"temperature": True}, "temperature"),
    ("completion", {"max_tokens": 0}, "max_tokens"),
    ("completion", {"max_tokens": 1.5}, "max_tokens"),
    ("completion", {"n": 0}, "n"),
    ("completion", {"n": 129}, "n"),
    ("completion", {"seed": 2**63}, "seed"),
    ("completion", {"top_p": 1.1}, "top_p"),
    ("completion", {"top_k": -2}, "top_k"),
    ("completion", {"stop": ""}, "stop"),
    ("completion", {"stop": ["a"] * 5}, "stop"),
    ("completion", {"stop": ["a", 1]}, "stop"),
    ("completion", {"logprobs": 6}, "logprobs"),
    ("completion", {"logprobs": True}, "logprobs"),
    ("completion", {"echo": 1}, "echo"),
    ("completion", {"echo": True, "logprobs": 1}, "echo"),
    ("completion", {"stream_options": {"include_usage": True}}, "stream_options"),
    (
        "completion",
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
    ("completion", {"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
    ("completion", {"stream": True, "stream_options": 3}, "stream_options"),
    ("completion", {"model": None}, "model"),
    ("completion", {"prompt": None}, "prompt"),
    ("completion", {"prompt": []}, "prompt"),
    ("completion", {"prompt": [[]]}, "prompt"),
    ("completion", {"prompt": ["a", 1]}, "prompt"),
    ("completion", {"prompt": [True]}, "prompt"),
    ("completion", {"prompt": {"a": 1}}, "prompt"),
    ("completion", {"logit_bias": {"a": 1}}, "logit_bias"),
    ("completion", {"logit_bias": {"99": 1}}, "logit_bias"),
    ("completion", {"logit_bias": {"5": 101}}, "logit_bias"),
    ("chat", {"messages": []}, "messages"),
    ("chat", {"messages": "hi"}, "messages"),
    ("chat", {"messages": ["hi"]}, "messages.0"),
    ("chat", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ("chat", {"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
    ("chat", {"messages": [{"role": "tool", "content": "a", "tool_call_id": "x"}]}, "messages.0.tool_call_id"),
    ("chat", {"messages": [{"role": "user", "content": "a", "name": "bob"}]}, "messages.0.name"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat", {"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ("chat", {"service_tier": "flex"}, "service_tier"),
]


def use(request: CompletionRequest | ChatRequest) -> None:
    """What is looked at only when it is needed."""
    request.sampling(num_tokens=50)
    request.prompts() if isinstance(request, CompletionRequest) else request.conversation()


@pytest.mark.parametrize(("route", "changes", "param"), WRONG, ids=str)
def test_a_wrong_value_is_named(route: str, changes: dict, param: str):
    with pytest.raises(ApiError) as caught:
        use(parse(route, **changes))
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"model": NaN}', b"[" * 5000], ids=lambda b: str(b[:10])
)
def test_what_is_not_a_json_object_is_refused(body: bytes):
    with pytest.raises(ApiError) as caught:
        parse_completion(body)
    assert caught.value.status == 400


def test_sampling_fields_arrive_where_tokens_are_sampled():
    given = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "frequency_penalty": -1,
        "presence_penalty": 2,
        "repetition_penalty": 1.2,
        "logit_bias": {"3": -5},
        "seed": -9,
        "logprobs": 2,
    }
    sampling = parse("completion", **given).sampling(num_tokens=50)
    expected = {**given, "logit_bias": ((3, -5.0),), "num_logprobs": 2}
    del expected["logprobs"]
    assert {name: getattr(sampling, name) for name in expected} == expected


def test_off_means_off():
    sampling = parse("completion", top_p=1, top_k=-1, min_p=0).sampling(num_tokens=50)
    assert (sampling.top_p, sampling.top_k, sampling.min_p) == (None, None, None)


def test_messages_become_what_templates_expect():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "s"}, {"role": "user", "content": parts}]
    assert parse("chat", messages=messages).conversation() == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ab"},
    ]
