"""A server at three times what it can do, with clients that leave, dawdle and send nonsense: what is promised, and what is left.

    [LLMC_CHURN_PACE=6] python benchmarks/serving_churn.py [--requests 10000]

The server is ours on a real socket, with steps of a stated time in place of a model (20 ms and 50 us a token), and a queue
bound as a plan derives it. First the peak: as much as it can do. Then three times that much, with every kind of trouble.

Clients share the machine with the server. Where others do, too, LLMC_CHURN_PACE makes steps and the objective so many times longer and
requests so many times rarer, so that it is the server's decisions that are measured; refusals are timed as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import psutil

MAX_BATCH, PREFILL_CHUNK, MAX_SEQ_LEN, BLOCK_TOKENS = 16, 256, 512, 16
PROMPT, ANSWER = 32, 24  # tokens
PACE = float(os.environ.get("LLMC_CHURN_PACE", "1"))
STEP_S, TOKEN_S = 20e-3 * PACE, 50e-6 * PACE
TPOT_S = STEP_S + (MAX_BATCH + PROMPT) * TOKEN_S  # a prompt rides along in most steps of a full batch
TTFT_SLO_S = 0.5 * PACE
CAPACITY = MAX_BATCH / (ANSWER * TPOT_S)  # requests a second
MAX_WAIT_STEPS = int((TTFT_SLO_S - 3 * TPOT_S) / TPOT_S)  # its own prompt, the step in progress, and one to spare

TROUBLE = {  # share of requests
    "whole": 0.10,
    "leaves early": 0.08,
    "leaves in the middle": 0.08,
    "too long": 0.05,
    "bad json": 0.04,
    "wrong model": 0.02,
    "stop": 0.03,
    "dawdles": 0.03,
}


@dataclass
class Churned:
    statuses: Counter[str] = field(default_factory=Counter)  # "kind status"
    first_s: list[float] = field(default_factory=list)  # of admitted streams
    refused_s: list[float] = field(default_factory=list)
    good: int = 0  # whole answers, begun in time
    duration_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return self.good / self.duration_s


async def churn(url: str, *, num_requests: int, rate: float, has_trouble: bool, seed: int = 0) -> Churned:
    """An open loop of `rate` requests a second."""
    pick, seen, began_s = random.Random(seed), Churned(), time.perf_counter()
    kinds, shares = [*TROUBLE, "stream"], [*TROUBLE.values(), 1 - sum(TROUBLE.values())]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60 * PACE) as client:
        tasks, due_s = [], 0.0
        for _ in range(num_requests):
            due_s += pick.expovariate(rate)
            await asyncio.sleep(max(0.0, due_s - (time.perf_counter() - began_s)))
            kind = pick.choices(kinds, shares)[0] if has_trouble else "stream"
            tasks.append(asyncio.create_task(_one(client, kind, random.Random(pick.random()), seen)))
        await asyncio.gather(*tasks)
    seen.duration_s = time.perf_counter() - began_s
    return seen


async def _one(client: httpx.AsyncClient, kind: str, pick: random.Random, seen: Churned) -> None:
    body = {
        "model": "nobody" if kind == "wrong model" else "twin",
        "prompt": [pick.randrange(97, 123) for _ in range(MAX_SEQ_LEN if kind == "too long" else PROMPT)],
        "max_tokens": ANSWER,
        "stream": kind != "whole",
        "stop": ["\n\n", "q"] if kind == "stop" else None,
    }
    content = b'{"model": "twin", "prompt": ' if kind == "bad json" else json.dumps(body).encode()
    began_s = time.perf_counter()
    try:
        async with client.stream(
            "POST", "/v1/completions", content=content, headers={"content-type": "application/json"}
        ) as response:
            seen.statuses[f"{kind} {response.status_code}"] += 1
            if response.status_code == 429:
                seen.refused_s.append(time.perf_counter() - began_s)
                if int(response.headers["retry-after"]) < 1:
                    seen.wrong.append("retry-after below a second")
            elif response.status_code == 200 and kind != "leaves early":
                await _read(response, kind, began_s, seen)
    except httpx.HTTPError as error:
        seen.wrong.append(f"{kind}: {error!r}")


async def _read(response: httpx.Response, kind: str, began_s: float, seen: Churned) -> None:
    first_s, last = None, ""
    async for line in response.aiter_lines():
        if line.startswith(("data: {", "{")) and first_s is None:
            first_s = time.perf_counter() - began_s
        last = line or last
        if kind == "leaves in the middle" and first_s is not None:
            return
        if kind == "dawdles":
            await asyncio.sleep(0.2 * PACE)
    if kind == "whole":
        choice = json.loads(last)["choices"][0]
        if choice["finish_reason"] != "length":
            seen.wrong.append(f"an answer ended with {choice['finish_reason']}")
        seen.good += 1
        return
    if last != "data: [DONE]" or first_s is None:
        seen.wrong.append(f"a stream ended with {last[:80]!r}")
        return
    seen.first_s.append(first_s)
    seen.good += first_s <= TTFT_SLO_S


class Server:
    """The twin as a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().removeprefix("serving on ").strip()

    def left(self) -> dict[str, float]:
        """What the server still holds: requests, blocks, tasks of its event loop, resident bytes."""
        text = httpx.get(f"{self.url}/metrics").text
        found = {
            name: float(re.search(rf"^llmc_{name} (\S+)$", text, re.M)[1])  # type: ignore[index]
            for name in ("requests_running", "requests_waiting", "tokens_waiting", "kv_blocks_used")
        }
        found["tasks"] = httpx.get(f"{self.url}/tasks").json()
        found["rss"] = psutil.Process(self.process.pid).memory_info().rss
        return found

    def settled(self, timeout_s: float = 10) -> dict[str, float]:
        """The same, once nothing runs any more."""
        end = time.monotonic() + timeout_s
        while self.left()["requests_running"] and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        return self.left()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


def serve_twin() -> None:
    import logging

    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from llmc.runtimes.serving.api import create_app
    from llmc.runtimes.serving.engine import Engine
    from llmc.runtimes.serving.intake import Service
    from llmc.runtimes.serving.kv import KVBlocks
    from llmc.runtimes.serving.metrics import Metrics
    from llmc.runtimes.serving.scheduler import Scheduler
    from llmc.runtimes.serving.server import serve
    from llmc.runtimes.serving.twin import TwinRunner, TwinSampler
    from llmc.runtimes.serving.vocabulary import NumberVocabulary

    async def tasks(request: Request) -> JSONResponse:
        return JSONResponse(len(asyncio.all_tasks()))

    scheduler = Scheduler(
        KVBlocks(MAX_BATCH * MAX_SEQ_LEN // BLOCK_TOKENS // 4, block_tokens=BLOCK_TOKENS),
        max_batch=MAX_BATCH,
        max_seq_len=MAX_SEQ_LEN,
        prefill_chunk=PREFILL_CHUNK,
        max_waiting=MAX_BATCH,
        max_waiting_tokens=10**6,
        max_wait_steps=MAX_WAIT_STEPS,
    )
    metrics = Metrics()
    runner = TwinRunner(lambda work: STEP_S + TOKEN_S * sum(tokens for tokens, _ in work))
    engine = Engine(runner, TwinSampler(128), scheduler, metrics=metrics)
    app = create_app(Service(name="twin", engine=engine, vocabulary=NumberVocabulary(128), metrics=metrics))
    app.router.routes.append(Route("/tasks", tasks))
    logging.getLogger("llmc.serving.access").disabled = True
    serve(app, drain_s=10)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_twin()
        return
    server = Server()
    peak = asyncio.run(churn(server.url, num_requests=args.requests // 10, rate=CAPACITY, has_trouble=False))
    before = server.settled()
    seen = asyncio.run(churn(server.url, num_requests=args.requests, rate=3 * CAPACITY, has_trouble=True))
    after = server.settled()
    status = server.stop()
    admitted = len(seen.first_s)
    in_time = sum(first_s <= TTFT_SLO_S for first_s in seen.first_s)
    print(f"pace {PACE:g}, load of the machine at the end {os.getloadavg()[0]:.1f}")
    print(
        f"capacity {CAPACITY:.1f} requests/s, no wait beyond {MAX_WAIT_STEPS} steps, {args.requests} requests at three times that"
    )
    print(f"  {dict(sorted(seen.statuses.items()))}")
    print(f"  admitted streams that began within {TTFT_SLO_S} s: {in_time} of {admitted}, {in_time / admitted:.2%}")
    print(f"  refusals: {len(seen.refused_s)}, p50 {percentile(seen.refused_s, 0.5) * 1e3:.1f} ms,"
          f" p99 {percentile(seen.refused_s, 0.99) * 1e3:.1f} ms")  # fmt: skip
    print(
        f"  goodput {seen.goodput:.1f}/s, at capacity without trouble {peak.goodput:.1f}/s: {seen.goodput / peak.goodput:.1%}"
    )
    print(f"  left: {after}; resident memory {(after['rss'] - before['rss']) / 2**20:+.1f} MiB; exit status {status}")
    print(f"  wrong: {Counter(seen.wrong)}")


if __name__ == "__main__":
    main()
