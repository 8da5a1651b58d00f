"""Programs for TPUs run on 8 CPU devices in torch-xla's own environment; without it these tests are skipped by that reason."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.compiler.verify.environments import python_of

LITTLE_COMPILING = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Programs here run a few steps: compiling them for the CPU would take longest."""
NO_XLA = "no torch-xla environment: `make setup-xla` makes it"
NO_TPU_COMPILER = "no TPU compiler: `make setup-xla` brings it"


@pytest.fixture(scope="session")
def xla(import_root: Path) -> Callable[..., str]:
    """Runs a Python file, or `-m module`, in torch-xla's environment on so many CPU devices; what it printed comes back."""
    python = python_of("xla")
    if python is None:
        pytest.skip(NO_XLA)

    def run(*args: str | Path, devices: int = 8, cwd: Path | None = None) -> str:
        environment = {
            **os.environ,
            "PJRT_DEVICE": "CPU",
            "CPU_NUM_DEVICES": str(devices),
            "XLA_FLAGS": LITTLE_COMPILING,
            "PYTHONPATH": str(import_root),
        }
        done = subprocess.run([python, *args], env=environment, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def tpu_compiler() -> Path:
    python = python_of("tpu")
    if python is None:
        pytest.skip(NO_TPU_COMPILER)
    return python
