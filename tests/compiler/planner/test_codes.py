"""The catalogue's codes of planning: the failing spec yields its code and no other, the fixed spec is planned without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler.pipeline import plan_specs
from llmc.spec.codes import all_codes
from llmc.spec.codes.entry import Code

AT_PLANNING = [code for code in all_codes().values() if code.stage == "plan"]


def told(text: str, folder: Path) -> set[str]:
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return {each.code for each in plan_specs([path])[0].diagnostics}


@pytest.mark.parametrize("code", AT_PLANNING, ids=lambda code: code.id)
def test_the_failing_spec_yields_the_code_and_nothing_else(code: type[Code], tmp_path: Path):
    assert told(code.failing_spec(), tmp_path) == {code.id}


@pytest.mark.parametrize("code", AT_PLANNING, ids=lambda code: code.id)
def test_the_fixed_spec_is_planned_without_a_word(code: type[Code], tmp_path: Path):
    assert told(code.fixed_spec(), tmp_path) == set()
