"""The catalogue: each code explains itself, its failing spec yields it and its fixed spec does not."""

from __future__ import annotations

import re

import pytest

from llmc.spec.codes import STAGES, all_codes
from llmc.spec.codes.demonstrate import failing_diagnostics, fixed_diagnostics
from llmc.spec.codes.entry import Code
from llmc.spec.diagnostics import diagnose

CODES = list(all_codes().values())
AT_LOADING = [code for code in CODES if code.stage == "load"]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.id)
def test_a_code_states_what_it_must(code: type[Code]):
    assert re.fullmatch(f"[{''.join(STAGES)}]\\d{{3}}", code.id)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code.slug)
    assert code.severity in ("error", "warning")
    assert code.meaning().endswith(".")
    assert code.failing_spec().strip()
    assert code.fixed_spec().strip()
    assert diagnose(code.id, "x").slug == code.slug


def test_slugs_are_unique():
    slugs = [code.slug for code in CODES]
    assert len(slugs) == len(set(slugs))


@pytest.mark.parametrize("code", AT_LOADING, ids=lambda code: code.id)
def test_the_failing_spec_yields_the_code_and_nothing_else(code: type[Code]):
    assert {each.code for each in failing_diagnostics(code)} == {code.id}


@pytest.mark.parametrize("code", AT_LOADING, ids=lambda code: code.id)
def test_the_fixed_spec_loads_without_a_word(code: type[Code]):
    assert fixed_diagnostics(code) == ()
