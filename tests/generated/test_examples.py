"""Every example becomes a program, or is told what of it is not lowered yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler.pipeline import build

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
BUILT = {"tiny-code.yaml", "2-llama3-8b-64xh100.yaml"}
"""Those that are lowered today."""
PROGRAM = {"model.py", "train.py", "plan.json", "manifest.json", "README.md"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_build_or_say_what_is_missing(path: Path, tmp_path: Path) -> None:
    result = build(path, tmp_path)
    codes = {each.code for each in result.diagnostics if each.severity == "error"}
    if path.name in BUILT:
        assert codes == set()
        assert result.tree is not None
        assert result.tree.texts.keys() >= PROGRAM
    else:
        assert codes == {"L301"}
        assert all(each.span is not None for each in result.diagnostics)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7
