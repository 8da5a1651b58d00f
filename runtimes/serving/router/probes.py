"""Each replica's own probe, asked again and again: who may be sent requests, and who has stopped answering."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import aiohttp

from .forward import Links
from .replicas import Replica, State

log = logging.getLogger("llmc.serving.router")

PROBE_S = 1.0
"""Between two looks."""
ANSWER_S = 2.0
"""In which a probe answers, or is missed."""
MISSES = 2
"""In a row, and the replica is stuck: what waits for it goes elsewhere."""
STUCK_S = MISSES * (PROBE_S + ANSWER_S)
"""Bound on the time until a replica that does not answer is left out."""


class Probes:
    """Asks `/health/progress` of each replica, the heartbeat of its engine."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._misses: dict[Replica, int] = dict.fromkeys(links.replicas.all, 0)
        self._steps: dict[Replica, int] = dict.fromkeys(links.replicas.all, 0)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns when each replica has been asked once."""
        await asyncio.gather(*(self.look(replica) for replica in self._links.replicas.all))
        self._tasks = [asyncio.create_task(self._watch(replica)) for replica in self._links.replicas.all]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            await self.look(replica)

    async def look(self, replica: Replica) -> None:
        before, replica.state = replica.state, await self._state(replica)
        if replica.state != before:
            log.info(json.dumps({"replica": replica.number, "state": replica.state}))
        if replica.state == "stuck":
            self._links.let_go(replica)

    async def _state(self, replica: Replica) -> State:
        if not replica.probe_url:  # it is being started
            return "out"
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await self._links.ask(
                    f"{replica.probe_url}/health/progress", headers={"connection": "close"}
                )
                text = await response.text()
        except TimeoutError:
            self._misses[replica] += 1
            return "stuck" if self._misses[replica] >= MISSES else replica.state
        except (aiohttp.ClientError, OSError):
            self._misses[replica] = 0
            return "out"
        self._misses[replica] = 0
        if response.status != 200:
            return "out"
        self._note_steps(replica, text)
        return "ready"

    def _note_steps(self, replica: Replica, text: str) -> None:
        """Fewer steps than before: another process, which has computed none of the prompts."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            steps = int(json.loads(text)["steps"])
            if steps < self._steps[replica]:
                self._links.replicas.restarted(replica)
            self._steps[replica] = steps
