"""Spec strings reach programs as quoted literals or as harmless prose, whatever they contain."""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.compiler.emit.literals import literal, prose

NASTY = [
    'a"b',
    "a'b",
    "'\"",
    '"""; import os; """',
    "\\",
    '\\"',
    "x\ny",
    "x\r\ny",
    "\u2028import os",
    "{{ 7 * 7 }}{% raw %}",
    "__import__('os').system('id')",
    "\x00\x02\x03",
    "\u202egnp.exe",
    "é中",
    "# noqa",
    "-->",
]


@given(st.text())
def test_a_literal_is_one_string_that_reads_back(text: str) -> None:
    written = literal(text)
    assert ast.literal_eval(written) == text
    tokens = [t for t in tokenize.generate_tokens(StringIO(written).readline) if t.type == tokenize.STRING]
    assert len(tokens) == 1
    assert "\n" not in written


@pytest.mark.parametrize("value", [1, -1.5, 1e-05, 1e300, True, None, (), (1,), ("a", 2.0), [1, "b"]])
def test_a_literal_of_a_value_reads_back(value: object) -> None:
    read = ast.literal_eval(literal(value))
    assert read == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: 2}])
def test_what_has_no_literal_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        literal(value)


def test_literals_are_written_as_the_formatter_writes_them() -> None:
    text = "".join(f"x = {literal(each)}\n" for each in NASTY)
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "-"]
    assert subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout == text


@given(st.text())
def test_prose_ends_no_docstring_comment_or_code_span(text: str) -> None:
    written = prose(text)
    assert not set(written) & set("\"'\\`\n\r<>{}|$#")
    assert written.isascii()
    assert ast.parse(f'"""{written}"""\n# {written}\nx = 1\n')


@pytest.mark.parametrize("text", NASTY)
def test_prose_keeps_one_docstring(text: str) -> None:
    tree = ast.parse(f'"""Model of {prose(text)}."""\n# {prose(text)}\n')
    assert len(tree.body) == 1
