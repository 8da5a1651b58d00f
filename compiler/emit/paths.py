"""Paths inside generated files: from one folder to another, so that a build names no absolute path."""

from __future__ import annotations

import os
from pathlib import Path


def relative(file: str | Path, *, start: Path) -> str:
    """How to get to a file from the folder `start`. The text of an option, which is no file, keeps its name: `--set`."""
    if str(file).startswith("--"):
        return str(file)
    return Path(os.path.relpath(file, start)).as_posix()
