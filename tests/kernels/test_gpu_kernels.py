"""Triton kernels against float64 in Triton's interpreter: fp32 and bf16, odd sizes; bugs planted in them are caught.

The interpreter needs a process of its own (gpu_process.py), which tells of one kind of kernel after another.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gpu_bugs import BUGS
from test_planted_bugs import BUGS as BUGS_IN_CPP

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
KINDS = sorted(BUGS)
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _has_triton() -> None:
    pytest.importorskip("triton")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """What gpu_process.py tells of a kind of kernel, which is asked once for both tests."""
    command = [sys.executable, "-W", "ignore", str(HERE / "gpu_process.py")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=interpreting(), **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        @functools.cache
        def rows_of(kind: str) -> list[dict[str, Any]]:
            process.stdin.write(json.dumps([kind, str(tmp_path_factory.mktemp(kind))]) + "\n")
            process.stdin.flush()
            rows = []
            for line in process.stdout:
                if line == "\n":
                    return rows
                rows.append(json.loads(line))
            raise AssertionError("gpu_process.py ended: see what it wrote to stderr")

        yield rows_of


def interpreting() -> dict[str, str]:
    """An environment in which Triton interprets."""
    return {key: value for key, value in os.environ.items() if key != "LLMC_KERNELS"} | {"TRITON_INTERPRET": "1"}


def told(*command: str, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of a process in which Triton interprets."""
    environment = interpreting() | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_agrees_with_float64(kind: str, interpreted: Callable[[str], list[dict[str, Any]]]) -> None:
    rows = [row for row in interpreted(kind) if "case" in row]
    assert len(rows) >= 2
    assert [row for row in rows if not row["holds"]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_planted_bugs_are_caught(kind: str, interpreted: Callable[[str], list[dict[str, Any]]]) -> None:
    rows = [row for row in interpreted(kind) if "bug" in row]
    assert len(rows) == len(BUGS[kind])
    assert [row for row in rows if not row["is_caught"]] == []


def test_there_are_bugs_of_every_kind() -> None:
    assert sum(len(bugs) for bugs in BUGS.values()) + len(BUGS_IN_CPP) >= 80


PROGRAMS = (HERE, HERE.parent / "generated")


def test_a_model_with_all_its_kernels_agrees_with_float64(tmp_path: Path) -> None:
    """Loss and the gradients of all weights of a two-layer Llama in bf16, as a rank of FSDP computes it."""
    command = (sys.executable, "-W", "ignore", str(HERE / "gpu_model_process.py"), str(tmp_path))
    rows = told(*command, paths=PROGRAMS)
    assert len(rows) == 16
    assert [row for row in rows if not row["holds"]] == []


def test_a_server_with_all_its_kernels_computes_what_its_eager_twin_does(tmp_path: Path) -> None:
    """Prompts and running answers of two layers: with weights in four bits, and with experts."""
    command = (sys.executable, "-W", "ignore", str(HERE / "gpu_served_process.py"), str(tmp_path))
    few_bits, experts = told(*command, paths=PROGRAMS)
    assert max(*few_bits["off"], *experts["off"]) < 1e-5
    assert few_bits["calls"] == {
        "forward": (2 * 4 + 1) + 5 * 2 * 4 + 1,  # the prompt at once; its pieces, and logits of all together
        "decode": 2 * 4,  # of four tokens after the prompt
    }
    assert experts["calls"] == {"choose": 2 + 5 * 2, "forward": 2 * 2 + 5 * 2 * 2, "decode": 2 * 4}
