"""The router: who is chosen, when a circuit opens, what is retried, and what a client sees of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.serving.keys import KeyGate
from llmc.runtimes.serving.router.app import create_router
from llmc.runtimes.serving.router.beginning import PIECE_BYTES, beginning
from llmc.runtimes.serving.router.fleet import replica_commands
from llmc.runtimes.serving.router.program import router_arguments
from llmc.runtimes.serving.router.replicas import FAILURES, FIRST_PAUSE_S, Breaker, Prefixes, Replica, Replicas
from llmc.runtimes.serving.server import prepare


def replicas(number: int, *, knows_prefixes: bool = True) -> Replicas:
    found = [Replica(index, url=f"http://r{index}", probe_url="", state="ready") for index in range(number)]
    return Replicas(found, prefixes=Prefixes() if knows_prefixes else None)


def send(group: Replicas, digests: list[bytes] = []) -> Replica:  # noqa: B006 (read only)
    replica = group.pick(digests, without=(), now_s=0.0)
    assert replica is not None
    group.begin(replica, digests)
    return replica


def test_requests_go_to_who_has_least_to_do_in_turns():
    group = replicas(3)
    assert [send(group).number for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    group.end(group.all[1])
    assert send(group).number == 1


def test_a_prompt_goes_where_its_beginning_is_known():
    group = replicas(3)
    first, second = [b"a", b"b"], [b"c"]
    assert (send(group, first).number, send(group, second).number) == (0, 1)
    for each in group.all:
        each.load = 0
    assert send(group, [b"c", b"d"]).number == 1
    assert send(group, [b"a", b"x"]).number == 0
    assert send(group, [b"y"]).number == 2


def test_a_beginning_that_all_have_in_common_does_not_overload_anybody():
    """Bounded loads: nobody has more than 1.25 times the mean, rounded up."""
    group = replicas(4)
    for _ in range(80):
        send(group, [b"system prompt"])
    assert sum(each.load for each in group.all) == 80
    assert max(each.load for each in group.all) <= 25


def test_a_replica_that_began_anew_is_no_longer_known():
    group = replicas(2)
    replica = send(group, [b"a"])
    group.end(replica)
    group.restarted(replica)
    assert send(group, [b"a"]).number == 1


def test_what_is_not_asked_for_is_forgotten_first():
    prefixes, (one,) = Prefixes(most=2), replicas(1).all
    prefixes.add([b"a"], one)
    prefixes.add([b"b"], one)
    prefixes.add([b"a"], one)
    prefixes.add([b"c"], one)
    assert [prefixes.holders([digest], among=[one]) == [one] for digest in (b"a", b"b", b"c")] == [True, False, True]


def test_a_circuit_opens_after_failures_in_a_row_and_lets_one_through_after_a_pause():
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.fail(0.0)
    breaker.succeed()
    for _ in range(FAILURES):
        assert breaker.admits(0.0)
        breaker.fail(0.0)
    assert not breaker.admits(FIRST_PAUSE_S - 0.01)
    assert breaker.admits(FIRST_PAUSE_S)
    breaker.begin()
    assert not breaker.admits(FIRST_PAUSE_S), "one at a time"
    breaker.fail(FIRST_PAUSE_S)
    assert not breaker.admits(3 * FIRST_PAUSE_S - 0.01), "the pause has doubled"
    breaker.begin()
    breaker.abandon()
    assert breaker.admits(3 * FIRST_PAUSE_S), "a client that leaves proves nothing"
    breaker.succeed()
    assert breaker.admits(0.0)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "end", "out", "ready", "fail"]), st.integers(0, 3), st.integers(0, 5)),
        max_size=60,
    )
)
def test_nobody_is_asked_who_is_out_and_loads_add_up(moves: list[tuple[str, int, int]]):
    group, flying, now_s = replicas(4), [], 0.0
    for move, number, prompt in moves:
        replica = group.all[number]
        now_s += 0.1
        if move == "send":
            chosen = group.pick([bytes([prompt])], without=(), now_s=now_s)
            able = [each for each in group.all if each.state == "ready" and each.breaker.admits(now_s)]
            assert (chosen is None) == (not able)
            if chosen is not None:
                assert chosen in able
                assert chosen.load <= 1.25 * (sum(each.load for each in able) + 1) / len(able)
                group.begin(chosen, [bytes([prompt])])
                flying.append(chosen)
        elif move == "end" and flying:
            group.end(flying.pop(prompt % len(flying)))
        elif move in ("out", "ready"):
            replica.state = move  # type: ignore[assignment]
        elif move == "fail":
            replica.breaker.fail(now_s)
        assert sum(each.load for each in group.all) == len(flying)


def test_a_conversation_begins_with_what_it_was():
    first = [{"role": "user", "content": "x" * 3 * PIECE_BYTES}]
    longer = [*first, {"role": "assistant", "content": "y" * 900}, {"role": "user", "content": "z"}]
    before, after = (beginning(json.dumps({"messages": each}).encode(), "ann") for each in (first, longer))
    assert after[: len(before)] == before
    assert len(after) > len(before) > 2
    assert beginning(json.dumps({"messages": first}).encode(), "bob")[0] != before[0], "caches are not shared either"
    assert len(beginning(json.dumps({"prompt": list(range(500))}).encode(), "")) > 2
    for broken in (b"", b"{", b"[]", b"null", b'{"prompt": "\\ud800"}', b"[" * 100_000, b'{"messages": 3}'):
        assert beginning(broken, "") == []


# --- with replicas on sockets ------------------------------------------------------------------------------------


@contextmanager
def on_a_socket(app: Any) -> Iterator[str]:
    server, listener = prepare(app, host="127.0.0.1", port=0, drain_s=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not server.started and time.monotonic() < end:
        time.sleep(0.005)
    try:
        yield server.url
    finally:
        server.should_exit = True
        thread.join(10)


class Stub:
    """A replica that does as it is told."""

    def __init__(self) -> None:
        self.answers: Callable[[], Response] = lambda: JSONResponse({"from": self.url})
        self.health = 200
        self.asked: list[Request] = []
        self.url = ""
        self.app = Starlette(
            routes=[
                Route("/health/progress", lambda request: JSONResponse({"steps": 1}, status_code=self.health)),
                Route("/v1/completions", self.answer, methods=["POST"]),
            ]
        )

    async def answer(self, request: Request) -> Response:
        await request.body()
        self.asked.append(request)
        return self.answers()


@pytest.fixture
def two() -> Iterator[tuple[Stub, Stub]]:
    one, other = Stub(), Stub()
    with on_a_socket(one.app) as one.url, on_a_socket(other.app) as other.url:
        yield one, other


@contextmanager
def routed(*urls: str, **options: Any) -> Iterator[str]:
    found = [Replica(number, url=url, probe_url=url) for number, url in enumerate(urls)]
    with on_a_socket(create_router(found, **options)) as url:
        yield url


def ask(url: str, **options: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={"prompt": "a" * 600}, timeout=20, **options)


def retries(url: str) -> dict[str, float]:
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if "retries_total{" in line]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines if not line.endswith(" 0.0")}


async def broken_pieces():
    yield b'data: {"a": 1}\n\n'
    raise RuntimeError("the replica breaks off")


async def one_error():
    yield b'data: {"error": {"message": "the engine makes no progress"}}\n\n'


async def nothing():
    raise RuntimeError("before the first piece")
    yield b""


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        ("full", lambda: JSONResponse({}, status_code=429, headers={"retry-after": "3"})),
        ("unreached", lambda: JSONResponse({}, status_code=503)),
        ("failed", lambda: JSONResponse({}, status_code=500)),
        ("failed", lambda: StreamingResponse(one_error(), media_type="text/event-stream")),
        ("lost", lambda: StreamingResponse(nothing(), media_type="text/event-stream")),
    ],
)
def test_what_has_not_begun_goes_on_to_the_next_replica(two: tuple[Stub, Stub], reason: str, answer):
    one, other = two
    one.answers = answer
    with routed(one.url, other.url) as url:
        for _ in range(2):
            assert ask(url).json() == {"from": other.url}
        assert retries(url).get(reason, 0) >= 1
    assert len(one.asked) >= 1


def test_when_all_are_full_the_client_is_told_so(two: tuple[Stub, Stub]):
    for each in two:
        each.answers = lambda: JSONResponse({"full": True}, status_code=429, headers={"retry-after": "3"})
    with routed(*(each.url for each in two)) as url:
        response = ask(url)
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")
        assert httpx.get(f"{url}/health/ready").status_code == 200, "to be full is no failure"
    assert [len(each.asked) for each in two] == [1, 1]


def test_a_stream_that_breaks_off_ends_with_an_error_and_is_not_repeated(two: tuple[Stub, Stub]):
    for each in two:
        each.answers = lambda: StreamingResponse(broken_pieces(), media_type="text/event-stream")
    with routed(*(each.url for each in two)) as url:
        text = ask(url).text
        assert "llmc_router_broken_total 1.0" in httpx.get(f"{url}/metrics").text
    first, last = text.strip().split("\n\n")
    assert first == 'data: {"a": 1}'
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert sum(len(each.asked) for each in two) == 1


def test_a_request_that_fails_everywhere_is_not_tried_for_ever(two: tuple[Stub, Stub]):
    for each in two:
        each.answers = lambda: JSONResponse({"mine": 1}, status_code=500)
    with routed(*(each.url for each in two)) as url:
        response = ask(url)
    assert (response.status_code, response.json()) == (500, {"mine": 1})
    assert sum(len(each.asked) for each in two) == 3


def test_replicas_whose_probe_is_red_are_left_out_until_it_is_green(two: tuple[Stub, Stub]):
    one, other = two
    one.health = other.health = 503
    with routed(one.url, other.url) as url:
        assert httpx.get(f"{url}/health/ready").status_code == 503
        assert httpx.get(f"{url}/health/progress").json() == {"status": "no_replica", "ready": 0, "out": 2, "stuck": 0}
        response = ask(url)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_replica")
        one.health = 200
        end = time.monotonic() + 10
        while httpx.get(f"{url}/health/ready").status_code != 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert {ask(url).json()["from"] for _ in range(4)} == {one.url}
    assert not other.asked


def test_prompts_that_begin_alike_go_to_one_replica_of_several(two: tuple[Stub, Stub]):
    with routed(*(each.url for each in two), knows_prefixes=True) as url:
        assert len({ask(url).json()["from"] for _ in range(6)}) == 1
        assert "llmc_router_known_total 5.0" in httpx.get(f"{url}/metrics").text
    with routed(*(each.url for each in two)) as url:
        assert len({ask(url).json()["from"] for _ in range(6)}) == 2


def test_headers_pass_but_for_those_of_one_hop(two: tuple[Stub, Stub]):
    one, _ = two
    one.answers = lambda: JSONResponse({}, headers={"x-own": "1", "x-request-id": "theirs", "keep-alive": "9"})
    with routed(one.url) as url:
        response = ask(url, headers={"authorization": "Bearer k", "x-forwarded-for": "1.2.3.4", "te": "trailers"})
    sent = one.asked[0].headers
    assert (sent["authorization"], sent["x-forwarded-for"]) == ("Bearer k", "1.2.3.4, 127.0.0.1")
    assert "te" not in sent
    assert response.headers["x-own"] == "1"
    assert len(response.headers.get_list("x-request-id")) == 1
    assert response.headers["x-request-id"] != "theirs"


def test_only_the_routes_of_a_server_are_passed_on(two: tuple[Stub, Stub]):
    with routed(two[0].url) as url:
        assert httpx.get(f"{url}/admin").status_code == 404
        assert httpx.get(f"{url}/v1/completions").status_code == 405
        big = httpx.post(f"{url}/v1/completions", content=b"x" * (4 * 2**20 + 1))
        assert big.status_code == 413
    assert not two[0].asked


def test_keys_are_asked_for_at_the_door_and_sent_on(two: tuple[Stub, Stub]):
    import hashlib

    keys = {hashlib.sha256(b"sk-ann").hexdigest(): "ann"}
    with routed(two[0].url, middleware=[Middleware(KeyGate, keys=keys)]) as url:
        assert ask(url).status_code == 401
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/health/live").status_code == 200
        assert ask(url, headers={"authorization": "Bearer sk-ann"}).status_code == 200
    assert two[0].asked[0].headers["authorization"] == "Bearer sk-ann"


# --- before real servers -----------------------------------------------------------------------------------------


def test_the_official_client_sees_one_server(live, say):
    servers = [live(logits=say(b"hi there")) for _ in range(2)]
    with routed(*(each.url for each in servers), knows_prefixes=True) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.completions.create(model="tiny", prompt="a>", temperature=0).choices[0].text == "hi there"
        parts = [
            chunk.choices[0].text
            for chunk in client.completions.create(model="tiny", prompt="a>", temperature=0, stream=True)
        ]
        assert "".join(parts) == "hi there"
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="a")
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="tiny", prompt="a", suffix="b")
    assert all(each.parts.wait_empty() for each in servers)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_computation_behind_the_router(live, stream: bool):
    server = live(step_s=0.01, max_seq_len=5000)
    with routed(server.url) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        body = {"model": "tiny", "prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        end = time.monotonic() + 5
        while not server.parts.scheduler.running and time.monotonic() < end:
            time.sleep(0.005)
        if stream:
            assert connection.getresponse().read(10)
        connection.close()
        assert server.parts.wait_empty()
        assert 'llmc_router_replica_requests{replica="0"} 0.0' in httpx.get(f"{url}/metrics").text


def test_a_chat_stream_says_nothing_before_its_first_words(live, say):
    """So that a router may still ask another server while it waits in line."""
    from llmc.runtimes.serving.chat import ChatTemplate

    gate = threading.Event()
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}>", variables={}, timeout_s=10)
    server = live(logits=say(b"ok"), gate=gate, service={"chat_template": template})
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": True, "temperature": 0}

    async def first_piece() -> bytes | None:
        async with (
            httpx.AsyncClient(timeout=20) as client,
            client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response,
        ):
            pieces = response.aiter_bytes()
            try:
                return await asyncio.wait_for(anext(pieces), 0.5)
            except TimeoutError:
                return None
            finally:
                gate.set()

    assert asyncio.run(first_piece()) is None


def test_flags(capsys):
    args = router_arguments("tiny", ["--port", "9", "--random", "--threads", "1"], has_rates=True)
    assert (args.port, args.replicas, args.passed_on) == (
        9,
        (),
        ("--random", "--threads", "1", "--proxy", "127.0.0.1"),
    )
    with pytest.raises(SystemExit):
        router_arguments("tiny", ["--replica", "http://a:1", "--random"])
    assert "--random is for replicas that are started here" in capsys.readouterr().err


def test_a_replica_that_is_no_url_is_told(tmp_path):
    from llmc.runtimes.serving.router.program import serve_router

    args = router_arguments("tiny", ["--replica", "localhost:1"])
    with pytest.raises(RunError, match="localhost:1 is no URL"):
        serve_router(args, program=tmp_path, replicas=1, device="cpu", drain_s=1)


def test_replicas_of_several_ranks_have_devices_and_cores_of_their_own(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12))
    commands = replica_commands("serve.py", ("--random",), number=2, device="cuda", asks_keys=False, ranks=4)
    assert [each.environment for each in commands] == [
        {"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
        {"CUDA_VISIBLE_DEVICES": "4,5,6,7"},
    ]
    on_npus = replica_commands("serve.py", (), number=2, device="npu", asks_keys=False)
    assert [each.environment for each in on_npus] == [{"ASCEND_RT_VISIBLE_DEVICES": number} for number in "01"]
    on_chips = [
        each.environment for each in replica_commands("serve.py", (), number=2, device="xla", asks_keys=False, ranks=2)
    ]
    assert [each["TPU_VISIBLE_CHIPS"] for each in on_chips] == ["0,1", "2,3"]
    assert {each["TPU_CHIPS_PER_PROCESS_BOUNDS"] for each in on_chips} == {"1,2,1"}
    assert len({each["TPU_PROCESS_PORT"] for each in on_chips}) == 2
    on_cpu = replica_commands("serve.py", (), number=2, device="cpu", asks_keys=False, ranks=3)
    assert [(each.words[-2:], each.environment) for each in on_cpu] == [(("--threads", "2"), {})] * 2
