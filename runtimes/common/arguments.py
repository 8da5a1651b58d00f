"""The flags of a generated training program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingArguments:
    resume: bool
    run_dir: Path
    max_steps: int | None
    threads: int | None
    data: Path | None = None
    """The folder of a prepared corpus, for a program whose spec names no text."""


def training_arguments(name: str, argv: Sequence[str] | None = None, *, asks_data: bool = False) -> TrainingArguments:
    """The flags of this process; `name` is the spec's, and the run's folder is runs/<name> unless told otherwise."""
    parser = argparse.ArgumentParser(description=f"Train {name}.", allow_abbrev=False)
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint of the run")
    parser.add_argument("--run-dir", type=Path, default=Path("runs") / name, help="folder of the run: %(default)s")
    parser.add_argument("--max-steps", type=_count, metavar="N", help="stop after step N, with a checkpoint")
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads: all cores by default")
    if asks_data:
        parser.add_argument("--data", type=Path, required=True, help="folder of a prepared corpus")
    parsed = parser.parse_args(argv)
    data = parsed.data if asks_data else None
    return TrainingArguments(parsed.resume, parsed.run_dir, parsed.max_steps, parsed.threads, data)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value
