"""Servers with steps of a stated time in place of a model, a router before them, and clients that know each right answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

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
def started(folder: Path, serve: str = SERVE) -> Iterator[Router]:
    (folder / "serve.py").write_text(serve)
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
