"""The JSON Schema: up to date, complete, and of one mind with the loader."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from llmc.spec import catalog
from llmc.spec.document import Spec
from llmc.spec.export import schema_path, schema_text, spec_schema
from llmc.spec.fields import fields_of
from llmc.spec.load import read_source, read_spec
from llmc.spec.source import SourceText

from .mutations import base_texts, mutated_texts

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
GOLDENS = sorted((ROOT / "tests/golden/diagnostics").glob("*.yaml"))
OF_THE_SCHEMA = {"S104", "S105", "S106", "S108", "S109", "S115", "S204", "S205", "S206", "S110"}
"""Faults that a schema can see."""


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(spec_schema())


def faults_of(text: str) -> list[str]:
    return [error.message for error in validator().iter_errors(YAML(typ="safe", pure=True).load(text))]


def test_the_committed_schema_is_up_to_date():
    assert schema_path().read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_it_is_a_valid_schema_of_its_draft():
    schema = json.loads(schema_text())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


def classes() -> list[Any]:
    found: list[Any] = [Spec]
    for cls in found:
        for shape in fields_of(cls).values():
            found += [other for other in (shape.item or shape).classes() if other not in found]
    return found


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_field_and_section_is_described(cls: Any):
    schema = spec_schema()
    definition = schema if cls is Spec else schema["$defs"][cls.__name__]
    assert definition["description"]
    for name, field in definition["properties"].items():
        assert field["description"], f"{cls.__name__}.{name}"
        assert field["description"].endswith((".", ")")), f"{cls.__name__}.{name}: a description is a sentence"


def test_quantities_carry_their_unit():
    definitions = spec_schema()["$defs"]
    assert definitions["Slo"]["properties"]["ttft_p99_ms"]["x-unit"] == "ms"
    assert definitions["Train"]["properties"]["tokens"]["x-unit"] == "tokens"
    units = {"_ms": "ms", "_gib": "GiB", "_gb_s": "GB/s, one direction", "_usd": "USD", "_w": "W"}
    for name, definition in definitions.items():
        for field, schema in definition.get("properties", {}).items():
            unit = next((unit for suffix, unit in units.items() if field.endswith(suffix)), None)
            inner = [schema, *schema.get("anyOf", ())]
            assert unit is None or unit in [part.get("x-unit") for part in inner], f"{name}.{field}"


def test_names_of_the_catalog_are_offered():
    definitions = spec_schema()["$defs"]
    model = definitions["Model"]["properties"]
    assert model["preset"]["anyOf"][0]["enum"] == catalog.list_presets()
    assert model["family"]["anyOf"][0]["enum"] == catalog.list_families()
    accelerator = definitions["Hardware"]["properties"]["accelerator"]
    assert accelerator["anyOf"][0]["enum"] == catalog.list_accelerators()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load_and_satisfy_the_schema(path: Path):
    spec, _, diagnostics = read_spec(path)
    assert diagnostics == ()
    assert spec is not None
    assert faults_of(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_name_the_schema_for_editors(path: Path):
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first == "# yaml-language-server: $schema=../schema/llmc.schema.json"
    assert (path.parent / first.partition("=")[2]).resolve() == schema_path().resolve()


SHORTHANDS = {
    "a stage": "train: {objective: causal_lm, seq_len: 8, steps: 1, global_batch: 1}",
    "stages": "train: [{objective: {kind: causal_lm}, seq_len: 1k, steps: 1, global_batch: 1}]",
    "auto": "parallel: auto",
    "open": "parallel: {tp: 2, rest: auto}",
    "a dtype": "serve: {max_seq_len: 8, weights: {dtype: fp8}, layout: auto}",
    "dtypes": "serve: {max_seq_len: 8, weights: {dtype: [fp8, bf16]}, layout: {tp: 1}}",
    "a null": "serve: null",
}


@pytest.mark.parametrize("section", SHORTHANDS.values(), ids=SHORTHANDS)
def test_shorthands_are_accepted(section: str):
    assert faults_of(f"model: {{preset: gpt2}}\nhardware: {{accelerator: cpu}}\n{section}\n") == []


@pytest.mark.parametrize(
    ("text", "is_complete"),
    [
        ("hardware: {accelerator: cpu}", False),
        ("model: {preset: gpt2}\nhardware: {}", False),
        ("model: {family: llama}\nhardware: {accelerator: cpu}", False),
        ("model: {preset: gpt2}\nhardware: {accelerator: {like: h100-sxm-80g, memory_gib: 96}}", True),
        ("model: {preset: gpt2}\nhardware: {accelerator: {kind: gpu, memory_gib: 96}}", False),
        ("model: {preset: gpt2, attention: {window: 8}}\nhardware: {accelerator: cpu}", True),
        ("model: {preset: gpt2}\nhardware: {accelerator: cpu}\ntrain: {steps: 10}", False),
        ("model: {preset: gpt2}\nhardware: {accelerator: cpu}\ntrain: [{steps: 10}]", False),
        ("extends: base.yaml\ntrain: {steps: 10, optimizer: {lr: 1.0e-4}}", True),
        ("extends: base.yaml\nmodel: {num_layers: 2}", True),
        ("extends: base.yaml\nmodel: {num_layer: 2}", False),
    ],
)
def test_only_what_nothing_else_can_fill_is_required(text: str, is_complete: bool):
    assert (faults_of(text) == []) == is_complete


def has_fault_of_the_schema(path: Path) -> bool:
    codes = {each.code for each in read_spec(path)[2]}
    is_readable = not codes & {"S101", "S103", "S111", "S112", "S113", "S114", "S201"}
    depends_on_the_preset = path.stem == "unknown-field-of-this-kind"
    return is_readable and bool(codes & OF_THE_SCHEMA) and not depends_on_the_preset


@pytest.mark.parametrize("path", filter(has_fault_of_the_schema, GOLDENS), ids=lambda path: path.stem)
def test_what_a_schema_can_see_of_a_wrong_spec_it_flags(path: Path):
    assert faults_of(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(mutated_texts(base_texts()))
def test_what_loads_satisfies_the_schema(text: str):
    spec, _, _ = read_source(SourceText("spec.yaml", text))
    assume(spec is not None)
    assert faults_of(text) == []
