"""Dry runs of a built program, in a process of their own: torch stays out of this one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .record import Record


class DryRunError(Exception):
    """The program could not be run dry; the message is the end of what it said."""


def dry_runs(
    folder: Path, ranks: Sequence[int], *, micro_batches: int | None = None, layers: int | None = None
) -> Iterator[Record]:
    """One record a rank, as soon as it is there. `layers`: of the first layers only."""
    command = [sys.executable, "-W", "ignore", "-m", "llmc.runtimes.pytorch.dryrun.run", str(folder)]
    command += ["--ranks", *map(str, ranks)]
    command += ["--micro-batches", str(micro_batches)] if micro_batches is not None else []
    command += ["--layers", str(layers)] if layers is not None else []
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
