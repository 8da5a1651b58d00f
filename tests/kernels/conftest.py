"""The workshop that makes kernels, with the real compiler."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from kernel_workshop import Workshop

from llmc.runtimes.kernels import compile as compiling
from llmc.runtimes.kernels.native import CHOICE


@pytest.fixture
def workshop(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Its compiled kernels outlive a run, as compiling is what takes time here."""
    compiler = compiling.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    kept = root / ".pytest_cache" / "kernels"
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    monkeypatch.setattr(compiling, "INCLUDE", with_precompiled(compiling.INCLUDE, kept, compiler=compiler))
    return Workshop(tmp_path)


def with_precompiled(headers: Path, kept: Path, *, compiler: str) -> Path:
    """A folder with the headers, and with what GCC makes of them: reading them takes it longer than a small kernel.

    GCC takes it for a kernel that begins with the header and has the flags of kernels here, and else reads the header.
    """
    folder = kept / f"headers-{compiling._key(headers / 'vector.h', compiler=compiler)}"
    if not folder.exists():
        kept.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=kept))
        shutil.copytree(headers, work, dirs_exist_ok=True)
        for header in (
            "small_matmul.h",
            "vector.h",
        ):  # in this order: GCC makes nothing of a header whose own headers it has
            command = [compiler, *compiling._FLAGS, *compiling._cpu_flags(), "-x", "c++-header", str(work / header)]
            subprocess.run([*command, "-o", str(work / f"{header}.gch")], check=True, capture_output=True)
        try:
            work.rename(folder)
        except OSError:  # another worker of these tests was first
            shutil.rmtree(work)
    return folder
