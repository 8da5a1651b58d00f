"""Specs as people, editors and attackers break them: hypothesis strategies over texts and over trees."""

from __future__ import annotations

import copy
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]

MACHINE = "hardware: {accelerator: {kind: cpu, memory_gib: 8, memory_gb_s: 20, peak_tflops: {fp32: 1}}}\n"

WEIRD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 7, 2**31, 2**63, 10**30, -(10**30), 0.0, -0.0, 0.5, 1e-300, 1e300, 3.14,
    "", " ", "auto", "none", "null", "true", "yes", "4k", "4K", "15T", "1e400", "0x10", "nan", "..", "../../etc/passwd",
    "${env:HOME}", "{{ 7 * 7 }}", "{% raw %}", "__import__('os').system('true')", "'); import os #", '"""', "\\", "\n", "a\nb",
    "名前", "😀", "e\u0301", "\u202e", "x" * 300, "*", "&a", "!tag", "%", "@", "`", "#", ": ", "- ", "? ", "|", ">",
    [], {}, [[]], [{}], {"kind": "mla"}, {"kind": "rope", "scaling": {"kind": "yarn"}}, ["bf16", "fp8"], {"like": "cpu"},
)  # fmt: skip
"""Values to put where others stand."""

SNIPPETS = ("\t", "\n", "  ", ":", ": ", "- ", "{", "}", "[", "]", ",", "'", '"', "#", "&a ", "*a", "!!int ", "|\n", "---\n", "...\n",
            "<<: ", "? ", "\ufeff", "\u2028", "é", "\x00", "\x85", "%YAML 1.1\n", "0" * 50, "kind: mla\n", "extends: spec.yaml\n")  # fmt: skip
"""Text to insert anywhere."""


def base_texts(*, devices: int | None = None) -> list[str]:
    """The examples; with `devices`, on so many instead of thousands, so that planning one takes milliseconds."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.yaml"))]
    if devices is None:
        return texts
    texts = [re.sub(r"\bnodes: \d+", "nodes: 1", text) for text in texts]
    texts = [re.sub(r"\bper_node: \d+", f"per_node: {devices}", text) for text in texts]
    return [re.sub(r"\btopology: [\dx]+", f"topology: 1x1x{devices}", text) for text in texts]


@st.composite
def mutated_texts(draw: st.DrawFn, texts: list[str]) -> str:
    """A spec after one to three mutations of its text or of its tree."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 3))):
        mutate = draw(st.sampled_from([_mutate_tree, _mutate_tree, _mutate_text]))
        text = mutate(draw, text)
    return text


def _mutate_text(draw: st.DrawFn, text: str) -> str:
    at = draw(st.integers(0, len(text)))
    length = draw(st.integers(1, 20))
    change = draw(st.sampled_from(["cut", "delete", "insert", "repeat", "swap lines", "case"]))
    if change == "cut":
        return text[:at]
    if change == "delete":
        return text[:at] + text[at + length :]
    if change == "insert":
        return text[:at] + draw(st.sampled_from(SNIPPETS) | st.text(max_size=5)) + text[at:]
    if change == "repeat":
        return text[:at] + text[at : at + length] * draw(st.integers(2, 60)) + text[at:]
    if change == "case":
        return text[:at] + text[at : at + length].swapcase() + text[at + length :]
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return text
    a, b = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    lines[a], lines[b] = lines[b], lines[a]
    return "".join(lines)


def _mutate_tree(draw: st.DrawFn, text: str) -> str:
    """One change of the tree, written as YAML again; a text that cannot be read is mutated as text."""
    tree = _tree(text)
    places = list(_places(tree))
    if not places:
        return _mutate_text(draw, text)
    tree = copy.deepcopy(tree)
    holder, key = _follow(tree, draw(st.sampled_from(places)))
    draw(st.sampled_from(_TREE_CHANGES))(draw, holder, key)
    out = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.allow_unicode = True
    try:
        writer.dump(tree, out)
    except Exception:
        return text
    return out.getvalue()


@functools.lru_cache(maxsize=200)
def _tree(text: str) -> Any:
    """What stands in a text, not to be changed; None if it cannot be read."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except Exception:
        return None


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _follow(tree: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    for key in path[:-1]:
        tree = tree[key]
    return tree, path[-1]


def _delete(draw: st.DrawFn, holder: Any, key: Any) -> None:
    del holder[key]


def _rename(draw: st.DrawFn, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        name = str(key)
        at = draw(st.integers(0, len(name)))
        renamed = draw(
            st.sampled_from([name[:at] + name[at + 1 :], name[:at] + "x" + name[at:], name.upper(), "kind", "<<", "é"])
        )
        holder[renamed] = holder.pop(key)


def _replace(draw: st.DrawFn, holder: Any, key: Any) -> None:
    holder[key] = copy.deepcopy(draw(st.sampled_from(WEIRD)))


def _number(draw: st.DrawFn, holder: Any, key: Any) -> None:
    holder[key] = draw(st.integers(-5, 10**6) | st.floats(allow_nan=True, allow_infinity=True))


def _text(draw: st.DrawFn, holder: Any, key: Any) -> None:
    holder[key] = draw(st.text(max_size=30))


def _wrap(draw: st.DrawFn, holder: Any, key: Any) -> None:
    holder[key] = draw(st.sampled_from([[holder[key]], {"kind": holder[key]}, {str(key): holder[key]}]))


def _nest(draw: st.DrawFn, holder: Any, key: Any) -> None:
    value = holder[key]
    for _ in range(draw(st.integers(2, 60))):
        value = [value]
    holder[key] = value


def _transplant(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """A value of another key of the same mapping."""
    if isinstance(holder, dict):
        holder[key] = copy.deepcopy(holder[draw(st.sampled_from(sorted(holder, key=str)))])


_TREE_CHANGES: tuple[Callable[[st.DrawFn, Any, Any], None], ...] = (
    _delete, _rename, _replace, _replace, _number, _text, _wrap, _nest, _transplant,
)  # fmt: skip
