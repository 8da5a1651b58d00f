"""Whatever stands in a file, loading it gives a spec or diagnostics with places, and never another exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.spec.compose import compose
from llmc.spec.document import Spec
from llmc.spec.load import read_source
from llmc.spec.rendering import render_all
from llmc.spec.source import SourceText

from .mutations import MACHINE, base_texts, mutated_texts

TEXTS = [text.replace(line, MACHINE.strip()) if line else text for text in base_texts() for line in [
    next((line for line in text.splitlines() if line.startswith("hardware: {")), "")]]  # fmt: skip


def check_text(text: str) -> None:
    """Loads a text and renders what is said about it."""
    spec, _, diagnostics = read_source(SourceText("spec.yaml", text))
    assert (spec is None) == any(each.severity == "error" for each in diagnostics)
    assert spec is None or isinstance(spec, Spec)
    for each in diagnostics:
        assert each.span is not None, each
        assert each.fixes == ()
    render_all(diagnostics).encode("utf-8")
    json.dumps([each.to_json() for each in diagnostics])


@pytest.mark.slow
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
@given(mutated_texts(TEXTS))
def test_mutated_specs_load_or_are_refused(text: str):
    check_text(text)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str):
    compose(SourceText("spec.yaml", text))
    check_text(text)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(max_size=40) | st.from_regex(r"[a-z]+(\.[a-z0-9]+)*=.{0,10}", fullmatch=True), max_size=3))
def test_any_override_is_applied_or_refused(options: list[str]):
    _, _, diagnostics = read_source(SourceText("spec.yaml", TEXTS[0]), options)
    render_all(diagnostics).encode("utf-8", errors="strict" if all(map(str.isprintable, options)) else "replace")


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    from llmc.spec.load import read_spec

    path = tmp_path_factory.getbasetemp() / "spec.yaml"
    path.write_bytes(data)
    spec, _, diagnostics = read_spec(path)
    assert (spec is None) == any(each.severity == "error" for each in diagnostics)
