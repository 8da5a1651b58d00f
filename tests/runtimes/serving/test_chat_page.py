"""The chat page in a real browser, before a real server: it streams, stops, counts, and shows what a model says as text."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from browser import CHROMIUM, Opened, chromium, open_page
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from llmc.runtimes.serving.api import create_app
from llmc.runtimes.serving.chat import ChatTemplate
from llmc.runtimes.serving.chat_page import chat_page
from llmc.runtimes.serving.keys import KeyGate

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright", reason="playwright is not installed (make setup)")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not unpacked (make node)")

NAME = 'a "<b>name</b>" @KEYS@'
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}~~"
HARMFUL = "See <img src=x onerror=\"window.harmed=1\"><script>window.harmed=1</script> & 'né' €."
ENDLESS = "word " * 900


def answers(tokens: list[int]) -> np.ndarray:
    """Logits of a model that says ENDLESS to whoever asks for it, and else something that a page must not run."""
    asked, _, said = bytes(token for token in tokens if token < 256).rpartition(b"~~")
    answer = (ENDLESS if asked.endswith(b"endless") else HARMFUL).encode()
    row = np.zeros(260, np.float32)
    row[answer[len(said)] if len(said) < len(answer) else 256] = 99
    return row


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def serve(live_for_module) -> Callable[..., Any]:
    def start(*middleware: Middleware, template: str | None = TEMPLATE, **page: bool) -> Any:
        found = ChatTemplate(template, variables={}, timeout_s=10) if template is not None else None
        return live_for_module(
            logits=answers,
            step_s=0.01,
            max_seq_len=5000,
            service={"chat_template": found},
            app=lambda service: create_app(
                named := replace(service, name=NAME), middleware, further=[chat_page(named, **page)]
            ),
        )

    return start


@pytest.fixture(scope="module")
def server(serve):
    return serve()


@pytest.fixture
def opened(server, browser: Browser) -> Iterator[Opened]:
    found = open_page(browser, server.url)
    yield found
    found.page.context.close()


def ask(page: Page, text: str) -> None:
    page.locator("#input").fill(text)
    page.locator("#input").press("Enter")


def wait_begun(page: Page) -> int:
    """Characters of the answer that is coming. (Playwright's own wait_for_function needs `eval`, which the page forbids.)"""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if (length := page.evaluate("document.querySelector('.assistant .text')?.textContent.length ?? 0")) > 2:
            return length
    return 0


def wait_answered(page: Page) -> str:
    """The last answer, once it is whole."""
    page.locator("#send").wait_for(state="visible")
    return page.locator(".assistant .text").last.inner_text()


def test_an_answer_streams_in_and_is_text(opened: Opened, server):
    page = opened.page
    assert (page.title(), page.locator("h1").inner_text()) == (NAME, NAME)
    ask(page, "hello")
    assert 2 < wait_begun(page) < len(HARMFUL)
    assert page.locator("#stop").is_visible()
    assert wait_answered(page) == HARMFUL
    assert page.evaluate("[window.harmed, document.querySelectorAll('#log img, #log script').length]") == [None, 0]
    figures = page.locator(".figures").inner_text()
    assert re.fullmatch(r"[\d.]+ tokens/s, first token after \d+ ms, (\d+) tokens", figures), figures
    assert int(figures.split()[-2]) == len(HARMFUL.encode()) + 1
    assert float(figures.split()[0]) < 100, "a step of this model takes 10 ms"
    assert opened.told == []
    assert [address for address in opened.asked if not address.startswith((server.url, "data:"))] == []


def test_a_conversation_and_its_settings_reach_the_model(opened: Opened):
    page = opened.page
    page.locator("summary").click()
    page.locator("#system").fill("be brief")
    page.locator("#temperature").fill("0")
    page.locator("#most").fill("4")
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json))
    for text in ("one", "two"):
        ask(page, text)
        assert wait_answered(page) == "See "
    roles = [[each["role"] for each in body["messages"]] for body in sent]
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert [body["temperature"] for body in sent] == [0, 0]
    assert page.locator(".figures").last.inner_text().endswith("as many as it may have")
    page.locator("#new").click()
    ask(page, "three")
    wait_answered(page)
    assert [each["content"] for each in sent[-1]["messages"]] == ["be brief", "three"]


def test_stop_stops_the_server(opened: Opened, server):
    page = opened.page
    ask(page, "endless")
    assert wait_begun(page) > 2
    assert "llmc_requests_running 1.0" in httpx.get(f"{server.url}/metrics").text
    page.locator("#stop").click()
    said = wait_answered(page)
    assert server.parts.wait_empty()
    assert "llmc_requests_running 0.0" in httpx.get(f"{server.url}/metrics").text
    assert 2 < len(said) < len(ENDLESS)
    assert "tokens/s" in page.locator(".figures").inner_text()
    assert opened.told == []


def test_a_refusal_is_shown_and_the_text_may_be_sent_again(opened: Opened):
    page = opened.page
    ask(page, "x" * 6000)
    wait_answered(page)
    assert "context is 5000 tokens" in page.locator(".error").inner_text()
    assert page.locator("#input").input_value() == "x" * 6000


def test_the_page_has_no_way_from_text_to_elements(opened: Opened):
    page = opened.page
    harmful = "document.body.setAttribute('onclick', 'window.harmed = 1')"
    for sink in ("document.body.innerHTML = '<img>'", "document.write('<img>')", harmful):
        assert page.evaluate(f"try {{ {sink}; false }} catch (error) {{ error.name }}") == "TypeError", sink
    assert page.evaluate("fetch('http://127.0.0.1:1/').catch(error => error.name)") == "TypeError"
    assert "Content Security Policy" in opened.told[-1]
    headers = httpx.get(page.url).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_it_asks_for_a_key_and_forgets_it(serve, browser: Browser):
    digest = hashlib.sha256(b"sk-ann").hexdigest()
    server = serve(Middleware(KeyGate, keys={digest: "ann"}, also_open=("/",)), asks_keys=True)
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    opened = open_page(browser, server.url)
    page = opened.page
    page.locator("#key").wait_for(state="visible")
    ask(page, "hello")
    wait_answered(page)
    assert "send a key of this server" in page.locator(".error").inner_text()
    page.locator("#key").fill("sk-ann")
    page.locator("#input").press("Enter")
    page.locator(".figures").wait_for()
    assert wait_answered(page) == HARMFUL
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    assert page.locator("#key").input_value() == ""
    page.context.close()
    assert [told for told in opened.told if "401" not in told] == []


def test_without_a_chat_template_it_continues_texts(serve, browser: Browser):
    opened = open_page(browser, serve(template=None).url)
    page = opened.page
    assert page.locator("#note").is_visible()
    assert not page.locator("#system").is_visible()
    ask(page, "once~~")
    assert wait_answered(page) == HARMFUL
    assert opened.told == []
    page.context.close()


def test_it_fits_a_narrow_screen_and_the_dark(server, browser: Browser):
    colours = []
    for dark in (False, True):
        opened = open_page(browser, server.url, width=360, dark=dark)
        ask(opened.page, "a" * 300)
        wait_answered(opened.page)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
        colours.append(opened.page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        opened.page.context.close()
    assert colours[0] != colours[1]


def test_without_it_there_is_nothing_at_its_address(live_for_module):
    assert TestClient(live_for_module().parts.app).get("/").status_code == 404
