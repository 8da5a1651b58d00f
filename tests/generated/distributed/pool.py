"""A pool of processes that run generated programs as ranks of a gloo group, one job after another.

A process takes seconds to start and milliseconds to join a group, so tests share the pool and give it layouts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


class Pool:
    """`size` idle processes. `run` has the first few of them do a job together."""

    def __init__(self, size: int, folder: Path) -> None:
        self.folder, self.jobs = folder, 0
        self.processes: list[subprocess.Popen[str]] = []
        self.grow(size)

    def grow(self, size: int) -> None:
        """Have at least so many processes."""
        command = [sys.executable, str(WORKER)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes += [subprocess.Popen(command, **pipes) for _ in range(size - len(self.processes))]

    def run(self, job: str, *, world_size: int, **args: Any) -> list[Any]:
        """What each rank's function `job` of worker.py returns; raises with the ranks' tracebacks."""
        self.jobs += 1
        self.grow(world_size)
        store = self.folder / f"store-{self.jobs}"
        for rank, process in enumerate(self.processes[:world_size]):
            line = {"job": job, "rank": rank, "world_size": world_size, "store": str(store), "args": args}
            assert process.stdin is not None
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
        answers = [json.loads(self._line(process)) for process in self.processes[:world_size]]
        errors = [f"rank {rank}:\n{answer['error']}" for rank, answer in enumerate(answers) if "error" in answer]
        assert not errors, "\n".join(errors)
        return [answer["result"] for answer in answers]

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"a process of the pool ended with status {process.wait()}"
        return line

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait(timeout=60)
