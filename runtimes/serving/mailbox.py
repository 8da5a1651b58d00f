"""From the engine's thread to a coroutine: the deltas of one request."""

from __future__ import annotations

import asyncio
import contextlib

from .engine import Delta


class Mailbox:
    """Bound to the event loop in which it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[Delta]] = asyncio.Queue()  # bounded by the tokens of one request

    def post(self, deltas: list[Delta]) -> None:
        """Called on any thread; never blocks. After the loop has closed nobody reads, and the deltas are dropped."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, deltas)

    async def get(self) -> list[Delta]:
        """All deltas that have come since the last call, at least one."""
        deltas = list(await self._queue.get())
        while not self._queue.empty():
            deltas += self._queue.get_nowait()
        return deltas
