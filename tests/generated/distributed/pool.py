"""A pool of processes that run generated programs as ranks of a gloo group, one job after another.

A process imports for seconds and joins a group in milliseconds, so one imports and the others are forked from it, and tests
share the pool and give it layouts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Member:
    """This side of a process of the pool."""

    jobs: TextIO
    answers: TextIO


class Pool:
    """`size` idle processes. `run` has the first few of them do a job together."""

    def __init__(self, size: int, folder: Path) -> None:
        self.folder, self.jobs = folder, 0
        self.members: list[Member] = []
        self.parents: list[subprocess.Popen[bytes]] = []
        self.grow(size)

    def grow(self, size: int) -> None:
        """Have at least so many processes."""
        if size <= len(self.members):
            return
        pipes = [(*os.pipe(), *os.pipe()) for _ in range(size - len(self.members))]
        theirs = [(read_job, write_answer) for read_job, _, _, write_answer in pipes]
        command = [sys.executable, str(WORKER), json.dumps(theirs)]
        self.parents.append(subprocess.Popen(command, pass_fds=[end for ends in theirs for end in ends]))
        for read_job, write_job, read_answer, write_answer in pipes:
            os.close(read_job)
            os.close(write_answer)
            self.members.append(Member(os.fdopen(write_job, "w"), os.fdopen(read_answer)))

    def run(self, job: str, *, world_size: int, **args: Any) -> list[Any]:
        """What each rank's function `job` of worker.py returns; raises with the ranks' tracebacks."""
        self.jobs += 1
        self.grow(world_size)
        store = self.folder / f"store-{self.jobs}"
        for rank, member in enumerate(self.members[:world_size]):
            line = {"job": job, "rank": rank, "world_size": world_size, "store": str(store), "args": args}
            member.jobs.write(json.dumps(line) + "\n")
            member.jobs.flush()
        lines = [member.answers.readline() for member in self.members[:world_size]]
        assert all(lines), f"ranks ended: {[rank for rank, line in enumerate(lines) if not line]}"
        answers = [json.loads(line) for line in lines]
        errors = [f"rank {rank}:\n{answer['error']}" for rank, answer in enumerate(answers) if "error" in answer]
        assert not errors, "\n".join(errors)
        return [answer["result"] for answer in answers]

    def close(self) -> None:
        for member in self.members:
            member.jobs.close()
        for parent in self.parents:
            parent.wait(timeout=60)
