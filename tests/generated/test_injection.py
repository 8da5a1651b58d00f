"""Strings of a spec that try to break out into code end up as quoted literals or as harmless words."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
from programs import TINY, plan_of, tiny_spec

from llmc.compiler.emit.tree import render_program
from llmc.compiler.lower.lower import lower
from llmc.compiler.lower.views import Place

HARMLESS = "harmless"
NASTY = {
    "quote": "x\"; __import__('os').system('id') #",
    "single-quote": "x'; __import__('os').system('id') #",
    "docstring": '"""\nimport os\n"""',
    "newline": "x\nimport os\nos.system('id')",
    "carriage-return": "x\rimport os",
    "line-separator": "x\u2028import os",
    "backslash": "x\\",
    "jinja": "{{ 7 * 7 }}{% include 'x' %}{# #}",
    "format": "{x!r}%s%(x)s{0}",
    "marks": "\x02model\n\x03\n",
    "null": "a\x00b",
    "direction": "\u202egnp.exe",
    "markdown": "`[a](javascript:alert(1))` <script>alert(1)</script>",
}


def texts(value: str) -> dict[str, str]:
    """A build of a spec in which every free string is `value`, and whose file and folder are called so too."""
    hardware: dict[str, Any] = copy.deepcopy(TINY["hardware"])
    hardware["accelerator"]["name"] = value
    data = {
        "sources": [{"path": value, "text": value}],
        "clean": {"languages": [value]},
        "tokenizer": {"path": value},
    }
    spec = tiny_spec(hardware=hardware, data=data)
    file = value.replace("/", "_").replace("\x00", "_")
    place = Place(spec_file=Path("specs") / file / f"{file}.yaml", out_dir=Path("build/tiny"))
    program = lower(spec, plan_of(spec), place=place)
    return dict(render_program(program, locate=lambda key: None).texts)


@pytest.mark.parametrize("name", NASTY)
def test_strings_never_become_code(name: str) -> None:
    nasty, harmless = texts(NASTY[name]), texts(HARMLESS)
    assert nasty.keys() == harmless.keys()
    for path in nasty:
        if path.endswith(".py"):
            assert skeleton(nasty[path]) == skeleton(harmless[path]), path


@pytest.mark.parametrize("name", NASTY)
def test_strings_arrive_unchanged(name: str) -> None:
    literals = {
        node.value for node in ast.walk(ast.parse(texts(NASTY[name])["data.py"])) if isinstance(node, ast.Constant)
    }
    assert NASTY[name] in literals


@pytest.mark.parametrize("name", NASTY)
def test_the_readme_holds_no_markup_of_the_spec(name: str) -> None:
    readme = texts(NASTY[name])["README.md"]
    assert readme.count("\n") == texts(HARMLESS)["README.md"].count("\n")
    assert not any(word in readme for word in ("<script", "](", "{{", "\x02"))


def skeleton(source: str) -> str:
    """The syntax tree without the values of strings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)
