"""The API in this process: shapes, texts, usage, limits and errors of each route."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from dataclasses import replace

import httpx
import pytest

from llmc.runtimes.serving.metrics import METRICS

ANSWER = "né €😀!".encode()
PLAIN = {"temperature": 0, "max_tokens": 50}


def events(response: httpx.Response) -> list[dict]:
    """The JSON of each event of a stream, which must end with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def error(response: httpx.Response) -> dict:
    body = response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return body


def test_a_completion_has_openais_shape(api, say):
    call, parts = api(logits=say(ANSWER))
    body = call.complete("a>", **PLAIN).json()
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "tiny",
        "choices": [{"index": 0, "text": ANSWER.decode(), "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": len(ANSWER) + 1, "total_tokens": len(ANSWER) + 3},
    }
    assert parts.wait_empty()


def test_a_completion_has_sixteen_tokens_unless_told_otherwise(api, say):
    call, _ = api(logits=say(b"x" * 40))
    choice = call.complete(temperature=0).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")


def test_prompts_are_texts_or_tokens_one_or_many(api, say):
    call, _ = api(logits=say(b"ok"))
    for prompt, num_choices, num_tokens in (
        ("ab>", 1, 3),
        (["ab>", "c>"], 2, 5),
        ([97, 98, 62], 1, 3),
        ([[97, 62], [62], [98, 62]], 3, 5),
    ):
        body = call.complete(prompt, **PLAIN).json()
        assert [c["text"] for c in body["choices"]] == ["ok"] * num_choices
        assert body["usage"]["prompt_tokens"] == num_tokens


def test_choices_of_many_prompts_are_in_order(api):
    call, _ = api()
    both = call.complete(["a", "b"], n=2, seed=3, ignore_eos=True).json()
    apart = [call.complete(p, n=2, seed=3, ignore_eos=True).json() for p in ("a", "b")]
    texts = [choice["text"] for body in apart for choice in body["choices"]]
    assert [choice["text"] for choice in both["choices"]] == texts
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert both["usage"] == {"prompt_tokens": 2, "completion_tokens": 64, "total_tokens": 66}


def test_the_same_seed_repeats_and_no_seed_does_not(api):
    call, _ = api()
    seeded = {call.complete("a", seed=11, ignore_eos=True).json()["choices"][0]["text"] for _ in range(3)}
    free = {call.complete("a", ignore_eos=True).json()["choices"][0]["text"] for _ in range(3)}
    assert (len(seeded), len(free)) == (1, 3)


@pytest.mark.parametrize(
    ("stop", "text"), [("€", "né "), (["zz", "😀!"], "né €"), ("é €", "n"), ("nope", ANSWER.decode())]
)
def test_text_ends_before_a_stop_string(api, say, stop, text):
    call, _ = api(logits=say(ANSWER))
    choice = call.complete(stop=stop, **PLAIN).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")
    streamed = events(call.complete(stop=stop, stream=True, **PLAIN))
    assert "".join(e["choices"][0]["text"] for e in streamed) == text


def test_a_stop_string_ends_the_computation(api, say):
    call, parts = api(logits=say(b"abc" + b"x" * 90))
    usage = call.complete(stop="bc", temperature=0, max_tokens=90).json()["usage"]
    assert usage["completion_tokens"] == 3
    assert parts.runner.num_steps == 3


def test_echo_gives_the_prompt_back(api, say):
    call, _ = api(logits=say(b"ok"))
    assert call.complete("né>", echo=True, **PLAIN).json()["choices"][0]["text"] == "né>ok"
    assert call.complete([97, 62], echo=True, **PLAIN).json()["choices"][0]["text"] == "a>ok"
    streamed = events(call.complete("né>", echo=True, stream=True, n=2, **PLAIN))
    texts = ["".join(e["choices"][0]["text"] for e in streamed if e["choices"][0]["index"] == i) for i in (0, 1)]
    assert texts == ["né>ok", "né>ok"]


def test_a_stream_has_no_half_characters_and_ends_with_the_reason(api, say):
    call, _ = api(logits=say(ANSWER))
    chunks = events(call.complete(stream=True, **PLAIN))
    assert [c["choices"][0]["text"] for c in chunks] == ["n", "é", " ", "€", "😀", "!", ""]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 6 + ["stop"]
    assert len({c["id"] for c in chunks}) == 1
    assert all("usage" not in c for c in chunks)


def test_events_are_single_lines_whatever_the_text(api, say):
    text = "a\u2028b\x85\r\n\n\x0c"
    call, _ = api(logits=say(text.encode()))
    response = call.complete(stream=True, **PLAIN)
    lines = [line for line in response.text.splitlines() if line]  # as clients do that split text, not bytes
    assert all(line.startswith("data: ") for line in lines)
    assert "".join(c["choices"][0]["text"] for c in events(response)) == text


def test_a_stream_tells_the_usage_when_asked(api, say):
    call, _ = api(logits=say(b"abc"))
    chunks = events(call.complete(stream=True, stream_options={"include_usage": True}, **PLAIN))
    assert [c["usage"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    chunks = events(call.complete(stream=True, stream_options={"continuous_usage_stats": True}, **PLAIN))
    assert [c["usage"]["completion_tokens"] for c in chunks] == [1, 2, 3, 4]


def test_log_probabilities_of_a_completion(api, say):
    call, _ = api(logits=say("a€".encode()))
    logprobs = call.complete(logprobs=1, **PLAIN).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert logprobs["text_offset"] == [0, 1, 1, 1]
    assert all(-1e-3 < value <= 0 for value in logprobs["token_logprobs"])
    assert [list(top) for top in logprobs["top_logprobs"]] == [[name] for name in logprobs["tokens"]]


def test_log_probabilities_cover_the_returned_text_whole_and_streamed(api, say):
    call, _ = api(logits=say(b"abcdef"))
    for stop, kept in (("de", "abc"), ("zz", "abcdef"), ("cde", "ab")):
        whole = call.complete(stop=stop, logprobs=0, **PLAIN).json()["choices"][0]["logprobs"]["tokens"]
        chunks = events(call.complete(stop=stop, logprobs=0, stream=True, **PLAIN))
        streamed = [token for c in chunks for token in c["choices"][0]["logprobs"]["tokens"]]
        assert whole == streamed == list(kept)


def test_logit_bias_reaches_the_model(api, say):
    call, _ = api(logits=say(b"aaa"))
    assert call.complete(logit_bias={"98": 100}, temperature=0, max_tokens=3).json()["choices"][0]["text"] == "bbb"


def test_models_are_listed(api):
    call, _ = api()
    (card,) = call("GET", "/v1/models").json()["data"]
    assert card == call("GET", "/v1/models/tiny").json()
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 128)


def test_health_tells_that_steps_are_made(api):
    call, _ = api()
    for probe in ("live", "ready"):
        response = call("GET", f"/health/{probe}")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    call.complete("abc", max_tokens=4, ignore_eos=True)
    progress = call("GET", "/health/progress").json()
    assert (progress["status"], progress["steps"]) == ("ok", 4)
    assert 0 <= progress["step_age_seconds"] < 5


def test_every_metric_of_the_table_is_served_and_counts(api):
    call, _ = api()
    call.complete("abc", max_tokens=4, ignore_eos=True)
    call.complete("abc", model="other")
    text = call("GET", "/metrics").text
    families = set(re.findall(r"^# TYPE (\w+) ", text, re.M))
    assert families == {metric.name for metric in METRICS}
    for line in (
        'llmc_requests_total{reason="length"} 1.0',
        'llmc_requests_total{reason="cancelled"} 0.0',
        "llmc_prompt_tokens_total 3.0",
        "llmc_output_tokens_total 4.0",
        "llmc_kv_blocks 128.0",
        "llmc_kv_blocks_used 0.0",
        "llmc_requests_running 0.0",
        "llmc_requests_waiting 0.0",
        "llmc_engine_up 1.0",
        "llmc_time_to_first_token_seconds_count 1.0",
        "llmc_time_per_output_token_seconds_count 1.0",
        'llmc_http_responses_total{route="/v1/completions",status="200"} 1.0',
        'llmc_http_responses_total{route="/v1/completions",status="404"} 1.0',
    ):
        assert line in text.splitlines()


REFUSED = [
    ({"model": "gpt"}, 404, "model", "model_not_found"),
    ({"prompt": [260]}, 400, "prompt", None),
    ({"prompt": [-1]}, 400, "prompt", None),
    ({"prompt": ""}, 400, "prompt", None),
    ({"prompt": "a" * 128}, 400, "prompt", "context_length_exceeded"),
    ({"prompt": "a", "max_tokens": 128}, 400, "prompt", "context_length_exceeded"),
    ({"prompt": "a", "n": 100}, 400, "n", None),
    ({"prompt": ["a"] * 100}, 400, "prompt", None),
    ({"suffix": "x"}, 400, "suffix", "unsupported_field"),
]


@pytest.mark.parametrize(("body", "status", "param", "code"), REFUSED, ids=str)
def test_a_request_that_cannot_be_served_is_refused(api, body, status, param, code):
    call, parts = api()
    response = call.complete(**{"prompt": "a", **body})
    assert response.status_code == status
    assert (error(response)["param"], error(response)["code"]) == (param, code)
    assert parts.is_empty()


def test_an_answer_may_fill_the_context_exactly(api):
    call, _ = api()
    usage = call.complete("a" * 100, max_tokens=28, ignore_eos=True).json()["usage"]
    assert usage["total_tokens"] == 128


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/health/live", 405),
        ("GET", "/v1/models/other", 404),
    ],
)
def test_wrong_routes_answer_in_the_same_shape(api, method, path, status):
    call, _ = api()
    response = call(method, path)
    assert response.status_code == status
    assert error(response)["message"]


def test_a_body_that_is_not_json_is_refused(api):
    call, _ = api()
    response = call("POST", "/v1/completions", content=b"{", headers={"content-type": "application/json"})
    assert (response.status_code, error(response)["code"]) == (400, "invalid_json")
    response = call("POST", "/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert (response.status_code, error(response)["code"]) == (415, "not_json")


def test_a_long_body_is_refused_with_or_without_its_length(api):
    call, _ = api(service={"max_body_bytes": 1000})
    assert call.complete("a" * 100).status_code == 200
    response = call.complete("a" * 1000)
    assert (response.status_code, error(response)["code"]) == (413, "body_too_long")

    async def parts():
        yield b'{"model":"tiny","prompt":"'
        for _ in range(50):
            yield b"a" * 100

    response = call("POST", "/v1/completions", content=parts(), headers={"content-type": "application/json"})
    assert (response.status_code, error(response)["code"]) == (413, "body_too_long")


def test_overload_is_answered_with_429_and_when_to_retry(api):
    gate = threading.Event()
    call, parts = api(max_batch=2, max_waiting=3, gate=gate, prefill_chunk=64)

    async def burst():
        calls = [
            asyncio.create_task(call.call("POST", "/v1/completions", json={"model": "tiny", "prompt": "a"}))
            for _ in range(9)
        ]
        while sum(c.done() for c in calls) < 4:
            await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(*calls)

    responses = asyncio.run(burst())
    refused = [r for r in responses if r.status_code == 429]
    assert sorted(r.status_code for r in responses) == [200] * 5 + [429] * 4
    assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
    assert error(refused[0])["type"] == "rate_limit_error"
    assert error(refused[0])["message"].startswith("the server is busy: ")
    assert "llmc_requests_refused_total 4.0" in call("GET", "/metrics").text
    assert parts.wait_empty()


def test_an_engine_that_fails_gives_errors_and_red_health(api):
    call, _ = api(fault=RuntimeError("boom"))
    response = call.complete()
    assert (response.status_code, error(response)["type"]) == (500, "server_error")
    for probe in ("live", "ready", "progress"):
        health = call("GET", f"/health/{probe}")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
    response = call.complete()
    assert (response.status_code, error(response)["code"]) == (503, "engine_down")
    assert "llmc_engine_up 0.0" in call("GET", "/metrics").text


def test_an_engine_that_fails_under_a_stream_sends_an_error_event(api, say):
    call, parts = api(logits=say(b"abc"))
    compute = parts.runner.compute

    def failing(chunk):
        if chunk.start >= 5:
            raise RuntimeError("boom")
        return compute(chunk)

    parts.runner.compute = failing
    lines = [line for line in call.complete(stream=True, **PLAIN).text.split("\n\n") if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "generation_failed"


def test_a_bug_is_a_500_in_the_same_shape_and_tells_nothing(api, monkeypatch):
    from llmc.runtimes.serving import api as module

    monkeypatch.setattr(module, "check_model", lambda service, name: 1 / 0)
    call, _ = api()

    async def quiet():
        transport = httpx.ASGITransport(call.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/completions", json={"model": "tiny", "prompt": "a"})

    response = asyncio.run(quiet())
    assert (response.status_code, error(response)["message"]) == (500, "internal error")


def test_each_response_has_an_id_and_a_line_in_the_log(api, caplog):
    caplog.set_level("INFO", logger="llmc.serving.access")
    call, _ = api()
    response = call.complete("abc", user='bo"b\n', max_tokens=3, ignore_eos=True)
    (line,) = [json.loads(record.message) for record in caplog.records]
    assert line.pop("seconds") >= 0
    assert line == {
        "id": response.headers["x-request-id"],
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "user": 'bo"b\n',
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "finish": "length",
    }
    assert "\n" not in caplog.records[0].message


def test_chat_without_a_template_says_so(api):
    call, _ = api()
    response = call.chat()
    assert (response.status_code, error(response)["code"]) == (400, "no_chat_template")
    assert "tiny has no chat template; use /v1/completions" in error(response)["message"]


class Untouched:
    """A chat template and a vocabulary that nobody may use."""

    def __getattr__(self, name: str):
        raise AssertionError(f"{name} of a prompt that is refused anyway")


def test_what_would_be_refused_anyway_is_refused_before_its_prompt_is_looked_at(api):
    """Rendering and tokenizing take longer than a refusal may, and conversations are rendered one at a time."""
    gate = threading.Event()
    call, parts = api(max_batch=1, max_waiting=1, gate=gate)
    messages = [{"role": "user", "content": "a"}]

    async def overloaded():
        accepted = [
            asyncio.create_task(call.call("POST", "/v1/completions", json={"model": "tiny", "prompt": "a"}))
            for _ in range(2)
        ]
        while len(parts.scheduler.running) + len(parts.scheduler.waiting) < 2:
            await asyncio.sleep(0.01)
        service = call.app.state.service
        call.app.state.service = replace(service, vocabulary=Untouched(), chat_template=Untouched())
        refused = [
            await call.call("POST", "/v1/completions", json={"model": "tiny", "prompt": "a", "n": 2}),
            await call.call("POST", "/v1/chat/completions", json={"model": "tiny", "messages": messages}),
            await call.call("POST", "/v1/completions", json={"model": "nobody", "prompt": "a"}),
        ]
        call.app.state.service = service
        gate.set()
        return await asyncio.gather(*accepted), refused

    accepted, refused = asyncio.run(overloaded())
    assert [response.status_code for response in accepted] == [200, 200]
    assert [response.status_code for response in refused] == [429, 429, 404], "a fault of the request is told first"
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused[:2])
    assert "llmc_requests_refused_total 3.0" in call("GET", "/metrics").text
