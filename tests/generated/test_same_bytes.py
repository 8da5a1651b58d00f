"""Same spec, same bytes: in another process, with another hash seed, from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SPEC = "examples/tiny-code.yaml"
PROGRAM = """
import hashlib, sys
from llmc.compiler.pipeline import build
tree = build(sys.argv[1], sys.argv[2]).tree
for path, text in tree.texts.items():
    print(path, hashlib.sha256(text.encode()).hexdigest())
"""


def sums(spec: str, out: str, *, seed: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", PROGRAM, spec, out]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_builds_are_byte_identical(root: Path, tmp_path: Path) -> None:
    first = sums(SPEC, "build/tiny-code", seed="1", folder=root)
    assert "train.py" in first
    assert first == sums(SPEC, "build/tiny-code", seed="4242", folder=root)
    assert first == sums(str(root / SPEC), str(tmp_path / "elsewhere"), seed="0", folder=tmp_path)


def test_building_imports_no_framework(root: Path) -> None:
    program = (
        f"{PROGRAM}\nfound = {{'torch', 'triton', 'jax', 'transformers'}} & set(sys.modules)\nassert not found, found"
    )
    subprocess.run([sys.executable, "-c", program, SPEC, "build/x"], cwd=root, capture_output=True, check=True)
