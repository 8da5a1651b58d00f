"""The replicas of one machine: started together, started again when one ends, stopped when the router has drained."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from ...common.errors import RunError
from ...launch.process import end_with_parent
from .replicas import Replica

log = logging.getLogger("llmc.serving.router")

READY, PROBES = "serving on ", "probes on "
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Before a replica that ended is started again; doubles while it does not last."""
LASTS_S = 60.0
LINE_BYTES = 2**16
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}
CHIP_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}
"""Chips of a process -> the sides of the rectangle of the host's chips that libtpu takes them for (Ray and torch-xla set the same)."""
FIRST_CHIP_PORT = 8476
"""Of a process of several on a host of TPUs, as libtpu has it."""


@dataclass(frozen=True)
class Command:
    """How a replica is started: a server on a free port of this machine, which prints where."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Fleet:
    """Processes, one a replica; an `async with` of the event loop that they are watched in.

    `failure` tells why it could not begin: a replica that ends before it was ever ready says so itself, and is not tried again.
    """

    def __init__(self, commands: Sequence[Command], *, drain_s: float) -> None:
        self.replicas = [Replica(number, url="", probe_url="") for number in range(len(commands))]
        self.failure: RunError | None = None
        self._commands = commands
        self._drain_s = drain_s
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def processes(self) -> list[int]:
        """Their ids, in the order of the replicas."""
        return [self._processes[number].pid for number in range(len(self.replicas))]

    async def __aenter__(self) -> Fleet:
        try:
            await asyncio.gather(*(self._start(replica) for replica in self.replicas))
        except RunError as error:
            self.failure = error
            logging.getLogger("uvicorn.error").disabled = True  # it would add a traceback; `serve_router` tells
            await self._stop()
            raise
        self._watchers = [asyncio.create_task(self._keep_up(replica)) for replica in self.replicas]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watcher in self._watchers:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        await self._stop()

    async def _start(self, replica: Replica) -> None:
        """Start a replica and learn where it listens. RunError if it ends instead."""
        command = self._commands[replica.number]
        process = await asyncio.create_subprocess_exec(
            *command.words,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **command.environment},
            start_new_session=True,  # Ctrl-C is for the router, which lets them finish
            preexec_fn=end_with_parent,
            limit=LINE_BYTES,
        )
        self._processes[replica.number] = process
        assert process.stdout is not None
        url = probe_url = ""
        async for line in process.stdout:
            text = line.decode(errors="replace").strip()
            if text.startswith(PROBES):
                probe_url = text.removeprefix(PROBES)
            if text.startswith(READY):
                url = text.removeprefix(READY)
                break
        if not url:
            status = await process.wait()
            raise RunError(f"replica {replica.number} ended with status {status} before it was ready", help="see above")
        replica.url, replica.probe_url = url, probe_url or url

    async def _keep_up(self, replica: Replica) -> None:
        """Start it again whenever it ends."""
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = time.monotonic()
            status = await self._processes[replica.number].wait()
            replica.state, replica.probe_url = "out", ""
            log.error(json.dumps({"replica": replica.number, "ended": status, "again_in_s": pause_s}))
            pause_s = FIRST_PAUSE_S if time.monotonic() - began_s > LASTS_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with contextlib.suppress(RunError):
                await self._start(replica)

    async def _stop(self) -> None:
        """SIGTERM to all; SIGKILL to who does not end."""
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await asyncio.gather(*(process.wait() for process in running))
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()


def replica_commands(
    program: str, arguments: Sequence[str], *, number: int, device: str, asks_keys: bool, ranks: int = 1
) -> list[Command]:
    """`number` servers of this machine, of so many `ranks`: a device for each of these, or a share of the cores."""
    words = [sys.executable, program, *arguments, "--host", "127.0.0.1", "--port", "0"]
    words += ["--probe-port", "0"] if asks_keys else []
    if device == "cpu" and not any(word.split("=")[0] == "--threads" for word in arguments):
        words += ["--threads", str(max(1, len(os.sched_getaffinity(0)) // (number * ranks)))]
    return [Command(tuple(words), _devices_of(index, device=device, ranks=ranks)) for index in range(number)]


def _devices_of(replica: int, *, device: str, ranks: int) -> dict[str, str]:
    """The variables by which a replica has devices of its own."""
    numbers = ",".join(str(replica * ranks + rank) for rank in range(ranks))
    if device in VISIBLE:
        return {VISIBLE[device]: numbers}
    if device != "xla":
        return {}
    port = FIRST_CHIP_PORT + replica
    return {
        "TPU_VISIBLE_CHIPS": numbers,
        "TPU_CHIPS_PER_PROCESS_BOUNDS": CHIP_BOUNDS[ranks],
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": str(port),
        "CLOUD_TPU_TASK_ID": "0",
    }
