"""Replicas are killed, suspended and told to stop under load: what had not begun is never lost, and nothing wrong is served.

The servers are processes of ours with steps of a stated time in place of a model; their tokens follow from the prompt alone, so
that every answer can be checked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from llmc.runtimes.serving.router.probes import ANSWER_S, MISSES

SERVE = '''
import argparse, time
from llmc.runtimes.serving.api import create_app
from llmc.runtimes.serving.engine import Engine
from llmc.runtimes.serving.generation import Sampled
from llmc.runtimes.serving.intake import Service
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.metrics import Metrics
from llmc.runtimes.serving.scheduler import Scheduler
from llmc.runtimes.serving.server import serve
from llmc.runtimes.serving.vocabulary import NumberVocabulary

from llmc.runtimes.common.errors import run_program

parser = argparse.ArgumentParser()
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--threads")
args = parser.parse_args()

class Runner:
    """Each token is the sum of the prompt's first token and its own position."""
    def __init__(self):
        self.first = {}
    def step(self, work):
        time.sleep(0.01)
        for chunk in work:
            if chunk.start == 0:
                self.first[chunk.blocks[0]] = chunk.tokens[0]
        return [65 + (self.first[chunk.blocks[0]] + chunk.end) % 26 for chunk in work if chunk.needs_logits]

class Sampler:
    def sample(self, logits, generations):
        return [Sampled(token) for token in logits]

scheduler = Scheduler(KVBlocks(400, block_tokens=16), max_batch=8, max_seq_len=400, prefill_chunk=64, max_waiting=64,
                      max_waiting_tokens=99999)
metrics = Metrics()
engine = Engine(Runner(), Sampler(), scheduler, metrics=metrics)
service = Service(name="tiny", engine=engine, vocabulary=NumberVocabulary(100), metrics=metrics)
run_program(lambda: serve(create_app(service), host=args.host, port=args.port, drain_s=20))
'''
PROBE_S = 0.2
"""Between two probes: a fifth of what it is, so that tests wait less."""
ROUTER = f"""
import sys
from pathlib import Path
from llmc.runtimes.common.errors import run_program
from llmc.runtimes.serving.router import fleet, probes
from llmc.runtimes.serving.router.program import router_arguments, serve_router

probes.PROBE_S = {PROBE_S}
fleet.FIRST_PAUSE_S = 0.1

def main():
    args = router_arguments("tiny")
    serve_router(args, program=Path(sys.argv[0]).with_name("serve.py"), replicas=2, device="cpu", drain_s=20)
    assert "torch" not in sys.modules, "the router imports no torch"

run_program(main)
"""


def expected(first: int, num_prompt: int, num_tokens: int) -> str:
    return bytes(65 + (first + num_prompt + at) % 26 for at in range(num_tokens)).decode()


@dataclass
class Router:
    process: subprocess.Popen[str]
    url: str

    @property
    def replicas(self) -> list[psutil.Process]:
        return sorted(psutil.Process(self.process.pid).children(), key=lambda child: child.pid)

    def progress(self) -> dict[str, int]:
        return httpx.get(f"{self.url}/health/progress").json()

    def wait_for(self, timeout_s: float = 30, **counts: int) -> float:
        """Seconds until the replicas are so."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            found = self.progress()
            if all(found[state] == count for state, count in counts.items()):
                return time.monotonic() - began_s
            time.sleep(0.05)
        raise AssertionError(f"{self.progress()} is not {counts}")


@contextmanager
def started(folder: Path) -> Iterator[Router]:
    (folder / "serve.py").write_text(SERVE)
    (folder / "router.py").write_text(ROUTER)
    log = (folder / "log").open("w")
    command = [sys.executable, "router.py", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving on "), (folder / "log").read_text()
        yield Router(process, line.removeprefix("serving on ").strip())
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with started(tmp_path_factory.mktemp("router")) as found:
        yield found


@dataclass
class Seen:
    """What clients got."""

    whole: int = 0
    broken: int = 0  # begun, then an error in the stream's own form
    wrong: list[str] = field(default_factory=list)


async def load(url: str, *, num_requests: int, in_flight: int, seen: Seen) -> None:
    """Every other request streams; each answer is compared with what it must be."""
    numbers = iter(range(num_requests))
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def one() -> None:
            for number in numbers:
                try:
                    await _ask(client, number, seen)
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    seen.wrong.append(f"{number}: {error!r}")

        await asyncio.gather(*(one() for _ in range(in_flight)))


async def _ask(client: httpx.AsyncClient, number: int, seen: Seen) -> None:
    prompt, num_tokens = [number % 90] * (5 + number % 50), 10 + number % 25
    body = {"model": "tiny", "prompt": prompt, "max_tokens": num_tokens, "ignore_eos": True}
    wanted = expected(prompt[0], len(prompt), num_tokens)
    if number % 2:
        response = await client.post("/v1/completions", json=body)
        text = response.json()["choices"][0]["text"] if response.status_code == 200 else ""
        if text == wanted:
            seen.whole += 1
        else:
            seen.wrong.append(f"{response.status_code}: {response.text[:200]}")
        return
    text, last, error = "", "", None
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        async for line in response.aiter_lines():
            last = line or last
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                error = event.get("error") or error
                text += event["choices"][0]["text"] if "choices" in event else ""
    if error is not None and text and wanted.startswith(text):
        seen.broken += 1
    elif last == "data: [DONE]" and text == wanted:
        seen.whole += 1
    else:
        seen.wrong.append(f"{response.status_code} {text[:60]!r} ended with {last[:120]!r}")


NUM_REQUESTS = 150


def under_load(router: Router, act, *, num_requests: int = NUM_REQUESTS, in_flight: int = 12) -> Seen:
    """What clients see while `act` happens, which it does once load is on."""

    async def run() -> Seen:
        seen = Seen()
        clients = asyncio.create_task(load(router.url, num_requests=num_requests, in_flight=in_flight, seen=seen))
        while seen.whole < num_requests // 10 and not clients.done():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(act)
        await clients
        return seen

    return asyncio.run(run())


def test_answers_are_what_they_must_be_without_faults(router: Router):
    seen = under_load(router, lambda: None, num_requests=60)
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, 60)


def test_a_replica_that_is_killed_loses_nothing_that_had_not_begun_and_comes_back(router: Router):
    router.wait_for(ready=2)
    before = {each.pid for each in router.replicas}
    victim = router.replicas[0]
    seen = under_load(router, victim.kill)
    assert seen.wrong == []
    assert seen.broken <= 6, (
        "no more than half of those in flight stream, and half of these are elsewhere or have not begun"
    )
    assert seen.whole + seen.broken == NUM_REQUESTS
    router.wait_for(ready=2)
    assert len({each.pid for each in router.replicas} - before) == 1


def test_a_suspended_replica_is_left_out_within_the_bound_and_its_requests_go_elsewhere(router: Router):
    router.wait_for(ready=2)
    victim = router.replicas[0]
    seen, took_s = Seen(), [0.0]

    def suspend() -> None:
        victim.suspend()
        took_s[0] = router.wait_for(stuck=1, ready=1)

    try:
        seen = under_load(router, suspend)
    finally:
        victim.resume()
    assert took_s[0] <= MISSES * (PROBE_S + ANSWER_S) + 2.0  # of a busy machine
    assert seen.wrong == []
    assert seen.whole + seen.broken == NUM_REQUESTS
    router.wait_for(ready=2)
    after = under_load(router, lambda: None, num_requests=40)
    assert (after.wrong, after.whole) == ([], 40)


def test_a_replica_that_drains_finishes_what_it_has_and_gets_nothing_new(router: Router):
    router.wait_for(ready=2)
    seen = under_load(router, router.replicas[0].terminate)
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, NUM_REQUESTS)
    router.wait_for(ready=2)


def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path):
    """Those that were accepted are answered, later ones find nobody, and nothing is left."""
    with started(tmp_path) as router:
        replicas = router.replicas
        seen = under_load(router, lambda: router.process.send_signal(signal.SIGTERM))
        assert router.process.wait(30) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith('{"id"')]
    of_router = [line["status"] for line in lines if "prompt_tokens" not in line]
    assert of_router == [200] * seen.whole, "whoever was heard has an answer"
    assert all("Error" in text for text in seen.wrong), "the others found nobody"
    assert seen.broken == 0
    assert seen.whole > NUM_REQUESTS // 10
    assert not any(each.is_running() for each in replicas)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_router_whose_replica_cannot_start_ends_with_its_reason(tmp_path: Path):
    (tmp_path / "serve.py").write_text("import sys; sys.exit('error: there is no checkpoint')")
    (tmp_path / "router.py").write_text(ROUTER)
    done = subprocess.run(
        [sys.executable, "router.py", "--port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "there is no checkpoint" in done.stderr
    assert "replica 0 ended with status 1 before it was ready" in done.stderr or "replica 1 ended" in done.stderr
    assert "Traceback" not in done.stderr


def test_replicas_do_not_outlive_a_router_that_is_killed(tmp_path: Path):
    with started(tmp_path) as router:
        replicas = router.replicas
        os.kill(router.process.pid, signal.SIGKILL)
        router.process.wait(10)
        gone, alive = psutil.wait_procs(replicas, timeout=10)
        assert (len(gone), alive) == (2, [])


def test_a_full_disk_under_the_log_changes_no_answer(tmp_path: Path):
    (tmp_path / "serve.py").write_text(SERVE)
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "serve.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, text=True
        )
        assert process.stdout is not None
        seen = Seen()
        url = process.stdout.readline().removeprefix("serving on ").strip()
        asyncio.run(load(url, num_requests=30, in_flight=6, seen=seen))
        process.terminate()
        assert process.wait(20) == 0
    assert (seen.wrong, seen.broken, seen.whole) == ([], 0, 30)


def test_a_server_that_cannot_say_that_it_is_ready_ends_with_its_reason(tmp_path: Path):
    (tmp_path / "serve.py").write_text(SERVE)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "serve.py"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode != 0
    assert "error: cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
