"""`--set train.optimizer.lr=1e-4`: an option becomes a small spec of its own, which is laid over the file's.

The value is YAML, so `--set model.attention='{kind: mqa}'` and `--set train.tokens=4M` work. A caret of a diagnostic
points into the option's text.
"""

from __future__ import annotations

import re

from .base import Node, Path
from .compose import compose
from .diagnostics import Diagnostic, diagnose
from .fields import Shape, child_shape
from .merge import expand, one_stage_as_list
from .nodes import Entry, MappingNode, ScalarNode, SequenceNode, YamlNode
from .source import SourceText, Span

_KEYS = re.compile(r"[^.=\s]+(\.[^.=\s]+)*")

Keys = list[tuple[str, Span]]
"""The parts of a dotted key, each with its place in the option."""


def apply_override(tree: YamlNode, option: str, *, root: type[Node]) -> tuple[YamlNode, list[Diagnostic]]:
    """The tree with one option set, or as it was and what is wrong with the option."""
    keys, value, faults = read_override(option)
    if value is None or faults:
        return tree, faults
    try:
        return _set(one_stage_as_list(tree), keys, value, shape=Shape(node=root)), []
    except _Misplaced as misplaced:
        return tree, [diagnose("S203", str(misplaced), span=misplaced.span)]


def read_override(option: str) -> tuple[Keys, YamlNode | None, list[Diagnostic]]:
    """The keys of an option, its value, and what is wrong with it."""
    source = SourceText("--set", option)
    dotted, equals, _ = option.partition("=")
    if not equals or _KEYS.fullmatch(dotted) is None:
        span = Span(source, 0, len(option))
        return [], None, [diagnose("S203", "an override is written key.key=value", span=span)]
    keys: Keys = []
    start = 0
    for part in dotted.split("."):
        keys.append((part, Span(source, start, start + len(part))))
        start += len(part) + 1
    value, faults = compose(source, text=" " * start + option[start:])
    if value is None and not faults:
        value = ScalarNode(None, Span(source, start, len(option)))
    return keys, value, faults


class _Misplaced(Exception):
    """A key that fits nowhere in the tree."""

    def __init__(self, message: str, span: Span) -> None:
        super().__init__(message)
        self.span = span


def _set(node: YamlNode | None, keys: Keys, value: YamlNode, *, shape: Shape, path: Path = ()) -> YamlNode:
    if not keys:
        return value
    name, span = keys[0]
    if node is None or (isinstance(node, ScalarNode) and node.value is None):
        node = MappingNode({}, span)
    node = expand(path, node)
    if isinstance(node, MappingNode):
        inner = child_shape(shape, node, name)
        below = _set(node.get(name), keys[1:], value, shape=inner, path=(*path, name))
        return MappingNode({**node.entries, name: Entry(span, below)}, node.span)
    if isinstance(node, SequenceNode):
        return _set_item(node, keys, value, shape=shape, path=path)
    raise _Misplaced(f"`{name}` cannot be set: `{_dotted(path)}` is a single value", span)


def _set_item(node: SequenceNode, keys: Keys, value: YamlNode, *, shape: Shape, path: Path) -> YamlNode:
    """`data.sources.0.weight`; for the only training stage the number may be left out."""
    name, span = keys[0]
    rest = keys[1:]
    if not name.isdecimal():
        if len(node.items) != 1 or path != ("train",):
            raise _Misplaced(f"`{_dotted(path)}` is a list of {len(node.items)}: name an item by its number", span)
        name, rest = "0", keys
    index = int(name) if len(name) < 6 else len(node.items)
    if index >= len(node.items):
        raise _Misplaced(f"`{_dotted(path)}` has {len(node.items)} items, counted from 0", span)
    item = _set(node.items[index], rest, value, shape=shape.item or Shape(), path=(*path, index))
    return SequenceNode((*node.items[:index], item, *node.items[index + 1 :]), node.span)


def _dotted(path: Path) -> str:
    return ".".join(str(key) for key in path)
