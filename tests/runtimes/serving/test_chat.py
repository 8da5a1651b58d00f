"""Chats: the checkpoint's template decides the prompt, and cannot harm the server."""

from __future__ import annotations

import asyncio
import time

import pytest

from llmc.runtimes.serving.chat import ChatTemplate
from llmc.runtimes.serving.errors import ApiError

CHATML = (
    "{{ bos_token }}{% for message in messages %}<user>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<bot>>{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: list[dict] = USER, *, timeout_s: int = 10, **variables: str) -> str:
    async def once() -> str:
        template = ChatTemplate(source, variables=variables, timeout_s=timeout_s)
        try:
            return await template.render(messages)
        finally:
            await template.close()

    return asyncio.run(once())


def refusal(source: str, messages: list[dict] = USER, **options) -> str:
    with pytest.raises(ApiError) as caught:
        render(source, messages, **options)
    assert (caught.value.status, caught.value.code) == (400, "chat_template_failed")
    return caught.value.message


def test_a_conversation_is_rendered_as_transformers_does():
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{%- for m in messages %}\n    {%- if loop.first and m.role != 'system' %}\n        {{- bos_token + 'Be.\\n' }}\n"
        "    {%- endif %}\n    {%- if m.role == 'assistant' %}{% generation %}\n        {{- m.content | trim }}{% endgeneration %}\n"
        "    {%- else %}{{- '<|' ~ m.role ~ '|>' ~ (m.content | tojson) ~ '\\n' }}{% continue %}{%- endif %}\n"
        "{%- endfor %}\n{% if add_generation_prompt %}\n<|assistant|>\n{% endif %}\n"
    )
    messages = [*USER, {"role": "assistant", "content": " né <b> "}, {"role": "user", "content": 'q"€\n'}]
    expected, _ = render_jinja_template(
        conversations=[messages], chat_template=source, add_generation_prompt=True, bos_token="<s>"
    )
    assert render(source, messages, bos_token="<s>") == expected[0]


def test_a_template_may_refuse_a_conversation():
    source = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message comes first') }}{% endif %}"
    assert refusal(source) == "the chat template refuses this conversation: a system message comes first"


def test_a_broken_template_is_named():
    assert refusal("{% for %}").startswith("the chat template is broken: ")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append('x') }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['sys'].exit() }}",
    "{{ raise_exception.__code__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_cannot_reach_out_of_its_sandbox(source):
    try:
        text = render(source)
    except ApiError as error:
        text = "" if error.code == "chat_template_failed" else error.message
    assert text == ""  # jinja2 renders some forbidden attributes as nothing


BOMBS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ 'a' | center(10 ** 10) }}",
    "{{ 2 ** (2 ** 40) }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ 'ab' * 4000000 }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_template_bomb_is_defused_and_others_go_on(source):
    conditional = "{% if messages[0].content == 'bomb' %}" + source + "{% else %}fine{% endif %}"

    async def both() -> tuple[str, str, float]:
        template = ChatTemplate(conditional, variables={}, timeout_s=1)
        await template.render(USER)
        began = time.monotonic()
        with pytest.raises(ApiError) as caught:
            await template.render([{"role": "user", "content": "bomb"}])
        seconds = time.monotonic() - began
        after = await template.render(USER)
        await template.close()
        return caught.value.message, after, seconds

    message, after, seconds = asyncio.run(both())
    assert message.startswith("the chat template ")
    assert after == "fine"
    assert seconds < 5


def test_a_render_that_is_cancelled_leaves_no_answer_for_the_next():
    async def run() -> str:
        template = ChatTemplate("{{ messages[0].content }}", variables={})
        await template.render(USER)
        task = asyncio.create_task(template.render([{"role": "user", "content": "x" * 3_000_000}]))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        text = await template.render(USER)
        await template.close()
        return text

    assert asyncio.run(run()) == "hi"


def chat(api, call_options=(), **options):
    """A server with the template above that answers `ok`."""
    service = {"chat_template": ChatTemplate(CHATML, variables={"bos_token": "^"}, timeout_s=10)}
    return api(service=service, **options)


def closing(call, parts, *requests):
    """Run requests and end the worker in the same event loop."""

    async def run():
        responses = [await call.call("POST", "/v1/chat/completions", json=body) for body in requests]
        await parts.service.chat_template.close()
        return responses

    return asyncio.run(run())


def body(**changes) -> dict:
    return {"model": "tiny", "messages": USER, "temperature": 0, **changes}


def test_a_chat_has_openais_shape(api, say):
    call, parts = chat(api, logits=say("né!".encode()))
    (response,) = closing(call, parts, body(service_tier="auto"))
    answer = response.json()
    assert answer.pop("id").startswith("chatcmpl-")
    answer.pop("created")
    # ^ <user> user: hi \n <bot> > : nine characters, and two special tokens
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "né!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 13, "completion_tokens": 5, "total_tokens": 18},
    }


def test_a_chat_may_use_the_whole_context_unless_told_otherwise(api):
    call, parts = chat(api)
    long, short = closing(call, parts, body(ignore_eos=True), body(ignore_eos=True, max_completion_tokens=3))
    assert long.json()["usage"]["total_tokens"] == 128
    assert long.json()["choices"][0]["finish_reason"] == "length"
    assert short.json()["usage"]["completion_tokens"] == 3


def test_log_probabilities_of_a_chat_have_bytes(api, say):
    call, parts = chat(api, logits=say("é".encode()))
    (response,) = closing(call, parts, body(logprobs=True, top_logprobs=2))
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert [(token["token"], token["bytes"]) for token in content] == [("bytes:\\xc3", [0xC3]), ("bytes:\\xa9", [0xA9])]
    assert [len(token["top_logprobs"]) for token in content] == [2, 2]
    assert content[0]["top_logprobs"][0] == {key: content[0][key] for key in ("token", "bytes", "logprob")}
