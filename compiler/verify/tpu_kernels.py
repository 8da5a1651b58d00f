"""Pallas kernels of a build: interpreted in torch-xla's environment, compiled by the compiler of TPUs in another.

The text that is compiled is what the program would send: it is written by the JAX beside torch-xla.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..kernels.tpus import Tpu
from .environments import ROOT, importable, python_of

NOT_ON_TPUS = "nothing here ran on a TPU: kernels were interpreted on this machine's CPU, and compiled for the chip"
NOT_SET_UP = "Pallas kernels: `make setup-xla` brings torch-xla, whose JAX interprets them, and the compiler of TPUs"


class TpuKernelError(Exception):
    """A check could not be run; the message says why."""


def interpreted(folder: Path) -> Iterator[dict[str, Any]]:
    """Every kernel of a build against float64; the rows of runtimes/kernels/checks/numerics.py."""
    with importable() as environment:
        said = _run(
            "xla", ["-m", "llmc.runtimes.kernels.checks.numerics", folder], {**environment, "LLMC_PALLAS": "interpret"}
        )
    yield from map(json.loads, said.splitlines())


def compiled(folder: Path, tpus: Sequence[Tpu]) -> Iterator[dict[str, Any]]:
    """Every function of every kernel of a build, for each of these chips; the rows of runtimes/xla/compile_kernels.py."""
    with tempfile.TemporaryDirectory() as scratch, importable() as environment:
        _run("xla", ["-m", "llmc.runtimes.kernels.checks.ahead_tpu", folder, scratch], environment)
        script = ROOT / "runtimes" / "xla" / "compile_kernels.py"
        said = _run("tpu", [script, scratch, *(tpu.topology for tpu in tpus)], os.environ)
    yield from map(json.loads, said.splitlines())


def is_set_up() -> bool:
    return python_of("xla") is not None and python_of("tpu") is not None


def _run(name: str, args: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    python = python_of(name)
    assert python is not None, NOT_SET_UP
    here = {"PJRT_DEVICE": "CPU", "JAX_PLATFORMS": "cpu"}
    command = [python, "-W", "ignore", *args]
    done = subprocess.run(command, env={**environment, **here}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TpuKernelError("\n".join(done.stderr.strip().splitlines()[-4:]))
    return done.stdout
