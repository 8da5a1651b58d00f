"""Load for a running server, and what came of it.

An open loop sends each request at its time whatever became of the others, and measures from that time: a server that falls
behind shows it. A closed loop waits for answers. Prompts are random token ids, so that no cache of prefixes helps.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from .arrivals import Arrival, ClosedLoop
from .simulation import Outcome


@dataclass(frozen=True)
class Target:
    """A server, and how to speak to it."""

    url: str
    model: str
    key: str | None = None
    timeout_s: float = 600.0
    token_ids: int = 256
    """Prompts are made of ids below this."""


@dataclass
class Measured:
    """What became of a load. Times of outcomes are seconds since its start."""

    outcomes: list[Outcome] = field(default_factory=list)
    duration_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    """What went wrong, and how often; 429 is no error but a refusal."""
    refused_s: list[float] = field(default_factory=list)
    """How long each refusal took."""

    def note(self, error: str) -> None:
        self.errors[error] = self.errors.get(error, 0) + 1


async def measure(target: Target, load: Sequence[Arrival] | ClosedLoop, *, seed: int = 0) -> Measured:
    """Send a load and wait for everything that was accepted."""
    headers = {"authorization": f"Bearer {target.key}"} if target.key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(
        base_url=target.url, headers=headers, limits=limits, timeout=target.timeout_s
    ) as client:
        run = _Run(client, target, seed)
        if isinstance(load, ClosedLoop):
            await run.closed(load)
        else:
            await run.opened(load)
    run.measured.duration_s = run.now_s()
    return run.measured


class _Run:
    def __init__(self, client: httpx.AsyncClient, target: Target, seed: int) -> None:
        self.client, self.target = client, target
        self.pick = random.Random(seed)
        self.measured = Measured()
        self.began_s = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self.began_s

    async def opened(self, arrivals: Sequence[Arrival]) -> None:
        tasks = []
        for arrival in sorted(arrivals, key=lambda arrival: arrival.time_s):
            await asyncio.sleep(max(0.0, arrival.time_s - self.now_s()))
            tasks.append(asyncio.create_task(self.one(arrival.input_tokens, arrival.output_tokens, arrival.time_s)))
        await asyncio.gather(*tasks)

    async def closed(self, load: ClosedLoop) -> None:
        requests = iter(load.requests)

        async def client() -> None:
            for num_input, num_output in requests:
                await self.one(num_input, num_output, self.now_s())

        await asyncio.gather(*(client() for _ in range(load.concurrency)))

    async def one(self, num_input: int, num_output: int, due_s: float) -> None:
        outcome = Outcome(due_s, num_input, num_output)
        self.measured.outcomes.append(outcome)
        body = {
            "model": self.target.model,
            "prompt": [self.pick.randrange(self.target.token_ids) for _ in range(num_input)],
            "max_tokens": num_output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self.client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code == 429:
                    outcome.is_refused = True
                    self.measured.refused_s.append(self.now_s() - due_s)
                elif response.status_code != 200:
                    await response.aread()
                    self.measured.note(f"{response.status_code}: {_message(response)}")
                else:
                    await self._read(response, outcome)
        except httpx.HTTPError as error:
            self.measured.note(type(error).__name__)

    async def _read(self, response: httpx.Response, outcome: Outcome) -> None:
        """Note when the first and the last token came, and how many there were."""
        last_s = num_tokens = None
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                self.measured.note(event["error"]["message"])
                return
            if event["choices"]:
                last_s = self.now_s()
                outcome.first_s = outcome.first_s or last_s
            if event.get("usage"):
                num_tokens = event["usage"]["completion_tokens"]
        if last_s is None or num_tokens is None:
            self.measured.note("the stream ended early")
            return
        outcome.finished_s, outcome.output_tokens = last_s, num_tokens


def _message(response: httpx.Response) -> Any:
    try:
        return response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return response.text[:100]
