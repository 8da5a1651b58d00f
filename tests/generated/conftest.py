"""Programs are imported by the hundred here, so their kernels run in plain PyTorch; tests/kernels compares the two."""

from __future__ import annotations

import os

os.environ.setdefault("LLMC_KERNELS", "eager")

from pathlib import Path

import pytest

from llmc.runtimes.kernels.compile import find_compiler
from llmc.runtimes.kernels.native import CHOICE


@pytest.fixture
def compiled_kernels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the C++ kernels, which the other tests of generated programs leave out."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / ".pytest_cache" / "kernels"))
