"""What the pages say exists: links lead to files, make targets are there, the reference has every field of the schema."""

import json
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmc.spec.codes.entry import Code

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "*.md"], text=True, capture_output=True, check=True
    ).stdout.split()
)


@pytest.fixture(scope="module")
def language_page() -> Callable[[dict[str, Any]], str]:
    return runpy.run_path(str(ROOT / "docs/hooks.py"))["language_page"]


@pytest.fixture(scope="module")
def errors_page() -> Callable[[dict[str, list[type[Code]]]], str]:
    return runpy.run_path(str(ROOT / "docs/hooks.py"))["errors_page"]


def test_links_between_pages_lead_somewhere():
    generated = {ROOT / "docs/reference" / name for name in ("language.md", "errors.md", "metrics.md")}
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).resolve()
            if not there.exists() and there not in generated:
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_each_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    missing = []
    for page in PAGES:
        named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        missing += [f"{page.relative_to(ROOT)}: make {name}" for name in named if name not in targets]
    assert missing == []


def test_the_reference_lists_fields_with_value_default_and_unit(language_page: Callable[[dict[str, Any]], str]):
    count = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+[kMBT]?$"}]}
    schema = {
        "required": ["model"],
        "properties": {"model": {"$ref": "#/$defs/Model", "description": "The architecture."}},
        "$defs": {
            "Unused": {"properties": {}},
            "Model": {
                "description": "A transformer.",
                "properties": {
                    "depth": {**count, "description": "Blocks.", "default": 2, "x-unit": "count"},
                    "width": {"anyOf": [{**count, "x-unit": "elements"}, {"type": "null"}], "default": None},
                    "norms": {"enum": ["pre", "post"], "default": "pre", "description": "Where | when."},
                },
            },
        },
    }
    page = language_page(schema).split("\n\n", 2)[2]
    assert page.split("\n") == [
        "| field | value | default | meaning |",
        "|---|---|---|---|",
        "| `model` | [Model](#model) | *required* | The architecture. |",
        "",
        "## Model",
        "",
        "A transformer.",
        "",
        "| field | value | default | meaning |",
        "|---|---|---|---|",
        "| `depth` | count | `2` | Blocks. |",
        "| `width` | count, in elements |  |  |",
        "| `norms` | `pre`, `post` | `pre` | Where \\| when. |",
        "",
    ]


def test_the_reference_has_every_section_of_the_language(language_page: Callable[[dict[str, Any]], str]):
    schema = json.loads((ROOT / "schema/llmc.schema.json").read_text(encoding="utf-8"))
    page = language_page(schema)
    assert [name for name in schema["properties"] if f"| `{name}` |" not in page] == []


def test_the_errors_page_tells_meaning_reason_and_way_out(errors_page: Callable[[dict[str, list[type[Code]]]], str]):
    class NoRoom(Code):
        """It does not fit.

        A device holds what it holds.
        """

        id, slug, fixed_set = "P201", "does-not-fit", ("serve.max_batch=1",)
        failing = "    llmc: 2\n"
        fixed = "    llmc: 1\n"

    assert errors_page({"planning": [NoRoom], "lowering": []}).split("\n")[4:] == [
        "## In planning",
        "",
        "### P201 does-not-fit",
        "",
        "It does not fit.",
        "",
        "A device holds what it holds.",
        "",
        "A spec that yields it:",
        "",
        "```yaml",
        "llmc: 2",
        "```",
        "",
        "The same, mended, with `--set serve.max_batch=1`:",
        "",
        "```yaml",
        "llmc: 1",
        "```",
        "",
    ]
