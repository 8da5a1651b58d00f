"""Dry runs of a built program, in processes of their own: torch stays out of this one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .record import Record

AT_A_TIME = 2
"""Processes: half a gigabyte each, and no machine has fewer cores."""


class DryRunError(Exception):
    """The program could not be run dry; the message is the end of what it said."""


@dataclass(frozen=True)
class Job:
    """Runs that are made one after another in one process: each of `ranks` with each of `micro_batches`."""

    ranks: tuple[int, ...]
    micro_batches: tuple[int, ...]
    layers: int | None = None
    """Of the first layers (in a pipeline: of each stage) only, for the order of things: its records have no states, but the ops."""
    device: str = "gpu"
    """The kind that the program is for."""


def dry_runs(folder: Path, jobs: Sequence[Job]) -> Iterator[list[Record]]:
    """The records of each job, in order; two jobs at a time."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield from pool.map(lambda job: list(_records(folder, job)), jobs)


def _records(folder: Path, job: Job) -> Iterator[Record]:
    command = [sys.executable, "-W", "ignore", "-m", "llmc.runtimes.pytorch.dryrun.run", str(folder)]
    command += [
        "--device",
        job.device,
        "--ranks",
        *map(str, job.ranks),
        "--micro-batches",
        *map(str, job.micro_batches),
    ]
    command += ["--layers", str(job.layers)] if job.layers is not None else []
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield Record.from_json(json.loads(line))
        if process.returncode:
            said.seek(0)
            raise DryRunError(_end_of(said.read()))


def _end_of(text: str) -> str:
    """The last line of a traceback, and the program's own line that led to it."""
    lines = [line.removeprefix("[rank0]: ").rstrip() for line in text.strip().splitlines()]
    return "\n".join(lines[-4:])
