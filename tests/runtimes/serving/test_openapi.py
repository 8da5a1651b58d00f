"""Schemathesis calls a real server with what its own description allows, and with what it forbids; all of its checks."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from llmc.runtimes.serving.chat import ChatTemplate
from llmc.runtimes.serving.openapi import ROUTES

MOST = 8
"""Tokens of an answer here: what the description allows would take long."""


@pytest.fixture(scope="module")
def served(vocabulary, live_for_module):
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}>", variables={}, timeout_s=10)
    return live_for_module(
        max_seq_len=20_000,
        num_blocks=20_000,
        max_batch=32,
        max_waiting=1000,
        max_waiting_tokens=10**6,
        service={"chat_template": template},
    )


OFTEN = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


@pytest.fixture(scope="module")
def schema(served):
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def short(body: Any) -> Any:
    """The same request with a short answer."""
    if isinstance(body, dict):
        names = ("max_tokens", "max_completion_tokens")
        body |= {name: min(body[name], MOST) for name in names if isinstance(body.get(name), int)}
        if "messages" in body and not any(body.get(name) for name in names):
            body["max_tokens"] = MOST
    return body


@pytest.mark.parametrize("path", ROUTES)
def test_what_the_description_allows_is_answered(schema, served, path: str):
    operation = schema[path][ROUTES[path][0]]

    @OFTEN
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def call(case):
        case.body = short(case.body)
        case.call_and_validate()

    call()
    assert served.parts.engine.health().status == "ok"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_what_the_description_forbids_is_refused(schema, served, path: str):
    operation = schema[path]["post"]

    @OFTEN
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def call(case):
        case.call_and_validate()

    call()
    assert served.parts.engine.health().status == "ok"


def test_the_description_has_every_route(served):
    paths = {route.path.replace("{name:path}", "{name}"): route.methods for route in served.parts.app.routes}
    assert {
        path: {method.upper(), *(["HEAD"] if method == "get" else [])} for path, (method, _) in ROUTES.items()
    } == paths


def test_afterwards_nothing_is_left(served):
    assert served.parts.wait_empty()
