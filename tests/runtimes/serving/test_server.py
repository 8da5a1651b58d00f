"""A real server on a real socket, with the official client."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from starlette.applications import Starlette

from llmc.runtimes.serving.chat import ChatTemplate
from llmc.runtimes.serving.server import prepare

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}>"
ANSWER = "né €😀!"


@pytest.fixture
def server(live, say):
    template = ChatTemplate(TEMPLATE, variables={}, timeout_s=10)
    return live(logits=say(ANSWER.encode()), service={"chat_template": template})


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10)


def test_the_official_client_completes(client):
    answer = client.completions.create(model="tiny", prompt="a>", temperature=0, max_tokens=30, logprobs=1)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert answer.usage.total_tokens == 2 + len(ANSWER.encode()) + 1
    assert answer.choices[0].logprobs.tokens[0] == "n"


def test_the_official_client_streams(client):
    chunks = list(
        client.completions.create(
            model="tiny", prompt="a>", temperature=0, max_tokens=30, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == ANSWER
    assert "\ufffd" not in "".join(c.choices[0].text for c in chunks if c.choices)
    assert chunks[-1].usage.completion_tokens == len(ANSWER.encode()) + 1


def test_the_official_client_chats(client):
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, temperature=0, logprobs=True, top_logprobs=1
    )
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].logprobs.content[0].top_logprobs[0].token == "n"
    with client.chat.completions.stream(model="tiny", messages=messages, temperature=0) as stream:
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def test_the_official_client_chats_concurrently(server):
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20) as client:

            async def one(at: int) -> str:
                stream = await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": f"{at}"}], temperature=0, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*map(one, range(16)))

    assert asyncio.run(run()) == [ANSWER] * 16
    assert server.parts.runner.largest_batch > 1
    assert server.parts.wait_empty()


def test_the_official_client_understands_our_errors(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}], tools=[{}])
    assert refused.value.param == "tools"
    assert [model.id for model in client.models.list()] == ["tiny"]


def slow(live, **options):
    """A server whose answers are long and take their time."""
    return live(step_s=0.01, max_seq_len=5000, **options)


def post(server, **body) -> http.client.HTTPConnection:
    """A request whose answer is not read yet."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    text = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 4000, "ignore_eos": True, **body})
    connection.request("POST", "/v1/completions", text, {"content-type": "application/json"})
    return connection


def running(server, wanted: int) -> bool:
    """Whether so many requests run within some seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end and len(server.parts.scheduler.running) != wanted:
        time.sleep(0.005)
    return len(server.parts.scheduler.running) == wanted


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_computation(live, stream):
    server = slow(live)
    connection = post(server, stream=stream)
    assert running(server, 1)
    if stream:
        assert connection.getresponse().read(10)
    connection.close()
    assert server.parts.wait_empty()
    text = httpx.get(f"{server.url}/metrics").text
    assert 'llmc_requests_total{reason="cancelled"} 1.0' in text


def test_a_client_that_goes_away_while_waiting_leaves_the_queue(live):
    server = slow(live, max_batch=1)
    first, second = post(server), post(server)
    end = time.monotonic() + 5
    while not server.parts.scheduler.waiting and time.monotonic() < end:
        time.sleep(0.005)
    second.close()
    while server.parts.scheduler.waiting and time.monotonic() < end:
        time.sleep(0.005)
    assert (len(server.parts.scheduler.running), len(server.parts.scheduler.waiting)) == (1, 0)
    first.close()
    assert server.parts.wait_empty()


def test_a_slow_reader_delays_nobody(live):
    server = live(max_seq_len=20_000)
    lazy = socket.create_connection(server.url.removeprefix("http://").split(":"))
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 9000, "ignore_eos": True, "stream": True})
    lazy.sendall(
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    assert running(server, 1)
    began = time.monotonic()
    response = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "b", "max_tokens": 5})
    assert response.status_code == 200
    assert time.monotonic() - began < 5
    lazy.close()
    assert server.parts.wait_empty()


def test_stopping_finishes_what_runs_and_takes_nothing_new(live):
    server = slow(live)
    connection = post(server, max_tokens=60)
    assert running(server, 1)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    body = json.loads(connection.getresponse().read())
    assert body["usage"]["completion_tokens"] == 60
    stopping.join(15)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health/live")
    assert not server.parts.engine._thread.is_alive()


def test_stopping_does_not_wait_for_ever(live):
    server = slow(live, drain_s=1)
    connection = post(server, stream=True)
    assert connection.getresponse().read(10)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 8
    assert not server.thread.is_alive()
    assert server.parts.wait_empty()


def test_a_stuck_engine_turns_health_red_and_answers_its_requests(live):
    gate = threading.Event()
    server = live(gate=gate, stall_s=0.2)
    response = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "a"}, timeout=10)
    assert (response.status_code, response.json()["error"]["message"]) == (500, "the engine makes no progress")
    health = httpx.get(f"{server.url}/health/progress")
    assert (health.status_code, health.json()["status"]) == (503, "stalled")
    assert httpx.get(f"{server.url}/health/ready").status_code == 503
    assert httpx.get(f"{server.url}/health/live").status_code == 200, "it may come back"
    gate.set()
    assert server.parts.wait_empty()
    assert httpx.get(f"{server.url}/health/progress").status_code == 200


PROGRAM = """
import sys, time
from llmc.runtimes.serving.api import create_app
from llmc.runtimes.serving.engine import Engine
from llmc.runtimes.serving.generation import Sampled
from llmc.runtimes.serving.intake import Service
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.metrics import Metrics
from llmc.runtimes.serving.scheduler import Scheduler
from llmc.runtimes.serving.server import serve
from llmc.runtimes.serving.vocabulary import NumberVocabulary

class Runner:
    def step(self, work):
        time.sleep(0.01)
        return [65 + chunk.start % 26 for chunk in work if chunk.needs_logits]

class Sampler:
    def sample(self, logits, generations):
        return [Sampled(token) for token in logits]

scheduler = Scheduler(
    KVBlocks(126, block_tokens=16),
    max_batch=4,
    max_seq_len=500,
    prefill_chunk=16,
    max_waiting=8,
    max_waiting_tokens=999,
)
metrics = Metrics()
engine = Engine(Runner(), Sampler(), scheduler, metrics=metrics)
service = Service(name="tiny", engine=engine, vocabulary=NumberVocabulary(256), metrics=metrics)
assert "torch" not in sys.modules, "scheduler, KV, engine and API import no torch"
serve(create_app(service), drain_s=10)
"""


def start() -> subprocess.Popen:
    """The server as a process of its own; its first line tells where."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_lets_running_requests_finish_and_ends_with_status_0():
    numbers = (signal.SIGTERM, signal.SIGINT)
    with ThreadPoolExecutor() as both:
        list(both.map(ends_well, [start() for _ in numbers], numbers))


def ends_well(process: subprocess.Popen, number: signal.Signals) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving on http://127.0.0.1:")
    url = line.removeprefix("serving on ").strip()
    answers: list[httpx.Response] = []

    def ask():
        body = {"model": "tiny", "prompt": "a", "max_tokens": 100, "ignore_eos": True}
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=20))

    threads = [threading.Thread(target=ask) for _ in range(6)]  # four run, two wait
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while "llmc_requests_waiting 2.0" not in httpx.get(f"{url}/metrics").text and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    for thread in threads:
        thread.join(20)
    out, err = process.communicate(timeout=20)
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [100] * 6
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_one_line_not_a_traceback():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            prepare(Starlette(), host="127.0.0.1", port=port, drain_s=1)
    assert caught.value.code == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_a_token_is_sent_without_waiting_for_the_one_before_to_be_acknowledged():
    """With Nagle's algorithm a client that delays its acknowledgements, by 40 ms on Linux, gets the first token so much later."""
    _, listener = prepare(Starlette(), host="127.0.0.1", port=0, drain_s=1)

    async def is_undelayed() -> bool:
        found: asyncio.Queue[bool] = asyncio.Queue()

        def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.put_nowait(bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            writer.close()

        async with await asyncio.start_server(accepted, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await found.get()

    assert asyncio.run(is_undelayed())
