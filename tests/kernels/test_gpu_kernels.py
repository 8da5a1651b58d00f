"""Triton kernels against float64 in Triton's interpreter: fp32 and bf16, odd sizes; bugs planted in them are caught.

The interpreter needs a process of its own (gpu_process.py), one for each kind of kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_bugs import BUGS
from test_planted_bugs import BUGS as BUGS_IN_CPP

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
KINDS = sorted(BUGS)


@pytest.fixture(autouse=True)
def _has_triton() -> None:
    pytest.importorskip("triton")


def interpreted(*args: str, folder: Path) -> list[dict[str, Any]]:
    """What gpu_process.py tells."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("gpu_process.py")), *args, str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "LLMC_KERNELS"} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_agrees_with_float64(kind: str, tmp_path: Path) -> None:
    rows = interpreted(kind, "right", folder=tmp_path)
    assert len(rows) > 5
    assert [row for row in rows if not row["holds"]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_planted_bugs_are_caught(kind: str, tmp_path: Path) -> None:
    rows = interpreted(kind, "bugs", folder=tmp_path)
    assert len(rows) == len(BUGS[kind])
    assert [row for row in rows if not row["is_caught"]] == []


def test_there_are_bugs_of_every_kind() -> None:
    assert sum(len(bugs) for bugs in BUGS.values()) + len(BUGS_IN_CPP) >= 80


def test_a_model_with_all_its_kernels_agrees_with_float64(tmp_path: Path) -> None:
    """Loss and the gradients of all weights of a two-layer Llama in bf16, as a rank of FSDP computes it."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("gpu_model_process.py")), str(tmp_path)]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "generated")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 16
    assert [row for row in rows if not row["holds"]] == []
