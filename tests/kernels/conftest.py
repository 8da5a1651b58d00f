"""The workshop that makes kernels, with the real compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_workshop import Workshop

from llmc.runtimes.kernels.compile import find_compiler
from llmc.runtimes.kernels.native import CHOICE


@pytest.fixture
def workshop(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Its compiled kernels outlive a run, as compiling is what takes time here."""
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / ".pytest_cache" / "kernels"))
    return Workshop(tmp_path)
