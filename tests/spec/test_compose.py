"""YAML as the core schema of YAML 1.2 says, with the place of everything, and a diagnostic for whatever is hostile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llmc.spec.compose import MAX_CHARACTERS, MAX_DEPTH, compose
from llmc.spec.nodes import MappingNode, sites, to_data
from llmc.spec.source import SourceText


def read(text: str) -> tuple[object, list[str]]:
    node, diagnostics = compose(SourceText("spec.yaml", text))
    return (None if node is None else to_data(node)), [diagnostic.code for diagnostic in diagnostics]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("3.0e-4", 3e-4), ("1E+3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-3", -3), ("+3", 3),
        ("0x1F", 31), ("0o17", 15), ("017", 17), ("1_000", "1_000"), ("12:30", "12:30"), ("4k", "4k"),
        ("true", True), ("TRUE", True), ("False", False), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"),
        ("null", None), ("~", None), ("", None), ("'null'", "null"), ('"1"', "1"), ("2024-01-01", "2024-01-01"),
        ("4x4x8", "4x4x8"), ("!!str 12", "12"), ("|\n   text", "text\n"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_the_core_schema(text: str, value: object):
    found, codes = read(f"a: {text}\n")
    assert codes == []
    assert found == {"a": value}
    assert type(found["a"]) is type(value)  # type: ignore[index]


def test_every_key_and_value_has_its_place():
    text = "a:\n  b: [1, {c: two}]\n  d: |\n    text\ne: 'q'\n"
    source = SourceText("spec.yaml", text)
    node, _ = compose(source)
    assert node is not None
    found = {path: (site.key.text, site.value.text) for path, site in sites(node)}
    assert found[("a", "b")] == ("b", "[1, {c: two}]")
    assert found[("a", "b", 1, "c")] == ("c", "two")
    assert found[("e",)] == ("e", "'q'")
    assert found[("a",)][0] == "a"


def test_an_empty_value_stands_at_its_key():
    node, _ = compose(SourceText("s", "a:\nb: 1\n"))
    assert isinstance(node, MappingNode)
    assert node.entries["a"].value.span.text == "a"


def test_anchors_and_aliases_are_written_out():
    assert read("a: &x {b: 1}\nc: *x\n") == ({"a": {"b": 1}, "c": {"b": 1}}, [])


HOSTILE = {
    "aliases that double": "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "an alias inside itself": "a: &a [*a]\n",
    "an alias without anchor": "a: *b\n",
    "deep lists": "a: " + "[" * 5000 + "]" * 5000,
    "deep mappings": "a: " + "{b: " * 2000 + "1" + "}" * 2000,
    "deep blocks": "".join(" " * n + "a:\n" for n in range(200)),
    "too long": "a: " + "x" * (MAX_CHARACTERS + 1),
    "many values": "a: [" + "1, " * 50_000 + "1]",
    "a python object": "a: !!python/object/apply:os.system ['true']\n",
    "a local tag": "a: !include b.yaml\n",
    "a scalar's tag on a mapping": "a: !!int {b: 1}\n",
    "a word that says it is a number": "a: !!int word\n",
    "a key that says it is a number": "? !!int word\n: b\n",
    "an old version": "%YAML 1.1\n---\na: no\n",
    "a future version": "%YAML 3.0\n---\na: 1\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a key twice": "a: 1\na: 2\n",
    "a tab": "a:\n\tb: 1\n",
    "an open quote": "a: 'b\nc: 1\n",
    "an open list": "a: [1, 2\n",
    "an open mapping": "a: {b: 1\n",
    "a stray bracket": "a: 1]\nb: ]\n",
    "a mapping as key": "{a: b}: c\n",
    "a list as key": "? [a]\n: c\n",
    "jinja": "a: {{ b }}\n",
    "infinity": "a: .inf\n",
    "not a number": "a: .NaN\n",
    "overflow": "a: 1e999\n",
    "a long integer": "a: " + "9" * 10_000 + "\n",
    "a long hex": "a: 0x" + "f" * 10_000 + "\n",
    "a nul": "a: \0\n",
    "an escape": "a: \x1b[31m\n",
    "a lone surrogate": "a: \ud800\n",
    "a bad escape": 'a: "\\q"\n',
    "a bad unicode escape": 'a: "\\UFFFFFFFF"\n',
    "half a character": 'a: "\\ud800"\n',
    "a bad anchor": "a: & b\n",
    "a bad indent": "a:\n    b: 1\n  c: 2\n",
    "two values": "a: 1 : 2\n",
    "an undefined tag handle": "a: !x!y z\n",
    "percent": "a: %b\n",
    "at sign": "a: @b\n",
    "a backquote": "a: `b`\n",
    "a block in a flow": "a: [b: {c]}\n",
    "a comment in a scalar": "a: 'b # c\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_ends_in_a_diagnostic_with_a_place(name: str):
    _, diagnostics = compose(SourceText("spec.yaml", HOSTILE[name]))
    assert diagnostics
    for diagnostic in diagnostics:
        assert diagnostic.code in {"S101", "S103", "S111", "S112", "S113", "S114"}
        assert diagnostic.span is not None
        assert 1 <= diagnostic.span.line <= HOSTILE[name].count("\n") + 1


def test_all_duplicate_keys_are_found_with_the_first_of_each():
    node, diagnostics = compose(SourceText("s", "a: 1\nb: {c: 1, c: 2}\na: 3\n"))
    assert [(d.span.line, d.labels[0].span.line) for d in diagnostics if d.span and d.labels[0].span] == [
        (2, 2),
        (3, 1),
    ]
    assert node is not None
    assert to_data(node) == {"a": 1, "b": {"c": 1}}


def test_nesting_up_to_the_limit_is_read():
    depth = MAX_DEPTH - 1
    assert read("a: " + "[" * depth + "]" * depth)[1] == []
    assert read("a: " + "[" * (depth + 1) + "]" * (depth + 1))[1] == ["S112"]


@settings(max_examples=300)
@given(st.text(st.sampled_from("ab:-?[]{},#&*!|>'\"%@` \n\t0.1e~\\"), max_size=40))
def test_what_composes_is_what_ruamel_reads(text: str):
    """Against ruamel.yaml's own composer: the same structure, and errors for the same texts."""
    found, codes = read(text)
    try:
        theirs = list(YAML(typ="safe", pure=True).parse(text))
    except Exception:
        assert codes
        return
    if not codes and found is not None:
        assert sum(type(event).__name__ == "MappingStartEvent" for event in theirs) == _count(found, dict)
        assert sum(type(event).__name__ == "SequenceStartEvent" for event in theirs) == _count(found, tuple)


def _count(value: object, kind: type) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return isinstance(value, kind) + sum(_count(item, kind) for item in inner)
