"""Where torch-xla and the TPU compiler live: each in an environment of its own, keyed by its pins (`make setup-xla`)."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = {"xla": ROOT / "constraints-xla.txt", "tpu": ROOT / "constraints-tpu.txt"}


def folder_of(name: str) -> Path:
    """The folder of an environment, in the user's cache: it outlives checkouts."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "llmc" / f"{name}-{sha256(PINS[name].read_bytes()).hexdigest()[:12]}"


def python_of(name: str) -> Path | None:
    """Its interpreter; LLMC_XLA_PYTHON and LLMC_TPU_PYTHON name others. None: it is not there."""
    told = os.environ.get(f"LLMC_{name.upper()}_PYTHON")
    if told:
        return Path(told)
    folder = folder_of(name)
    return folder / "bin" / "python" if (folder / "ready").exists() else None
