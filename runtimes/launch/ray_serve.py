"""A generated server as a Ray Serve application: Ray places replicas, routes to them and replaces those that fail.

Each replica starts `serve.py` as a process and passes requests on to it, byte for byte, so that a stream stays a stream and
the server's limits, health and drain are what they are without Ray.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .process import end_with_parent

READY = "serving on "
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade", "te"})


@dataclass(frozen=True)
class RayServer:
    """What the plan says of a server."""

    name: str
    num_replicas: int
    devices: int
    """Of a replica; 0 where it computes on the CPU."""
    max_requests: int
    """What a replica runs and lets wait; Ray keeps further ones from it."""
    start_s: int
    drain_s: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def application(server: RayServer, *, program: Path) -> Any:
    """What `serve run` and a Serve config name."""
    from ray import serve  # pyright: ignore[reportMissingImports]

    folder = str(Path.cwd())  # runs/ is here, on storage that all nodes share

    @serve.deployment(
        name=server.name,
        num_replicas=server.num_replicas,
        max_ongoing_requests=server.max_requests,
        ray_actor_options={"num_cpus": 1, "num_gpus": server.devices},
        health_check_period_s=5,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=server.drain_s,
        graceful_shutdown_wait_loop_s=1,
    )
    class Replica:
        async def __init__(self) -> None:
            self.upstream = await Upstream.start(server, program=program, folder=folder)

        async def __call__(self, request: Request) -> Response:
            return await self.upstream.answer(request)

        async def check_health(self) -> None:
            await self.upstream.check()

        async def __del__(self) -> None:
            await self.upstream.stop()

    return Replica.bind()  # pyright: ignore[reportAttributeAccessIssue] (the decorator adds it)


class Upstream:
    """The server's process, and the way to it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, drain_s: int) -> None:
        import aiohttp  # pyright: ignore[reportMissingImports]

        self.process, self.url, self.drain_s = process, url, drain_s
        self.client = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
            connector=aiohttp.TCPConnector(limit=0),
        )

    @classmethod
    async def start(cls, server: RayServer, *, program: Path, folder: str) -> Upstream:
        """Start the server on a free port and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(program / "serve.py"),
            *("--host", "127.0.0.1", "--port", "0", *server.arguments),
            stdout=asyncio.subprocess.PIPE,
            cwd=folder,
            env={**os.environ, **server.environment},
            preexec_fn=end_with_parent,
        )
        assert process.stdout is not None
        async with asyncio.timeout(server.start_s):
            async for line in process.stdout:
                text = line.decode().strip()
                if text.startswith(READY):
                    return cls(process, text.removeprefix(READY), server.drain_s)
        raise RuntimeError(f"the server ended with status {await process.wait()} before it was ready")

    async def answer(self, request: Request) -> Response:
        """Pass a request on and its answer back, in pieces as they come. A client that leaves ends both."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        target = f"{self.url}{request.url.path}"
        body = await request.body()
        query = request.url.query
        response = await self.client.request(
            request.method, f"{target}?{query}" if query else target, data=body, headers=headers
        )
        back = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
        return StreamingResponse(_pieces(response), status_code=response.status, headers=back)

    async def check(self) -> None:
        """Raises unless the engine makes progress, whereupon Ray replaces the replica."""
        async with self.client.get(f"{self.url}/health/progress") as response:
            if response.status != 200:
                raise RuntimeError(f"no progress: {response.status}")

    async def stop(self) -> None:
        """SIGTERM: the server finishes what it has, for as long as the plan allows."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), self.drain_s)
            except TimeoutError:
                self.process.kill()
        await self.client.close()


async def _pieces(response: Any) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    finally:
        response.close()
