"""Checked help: a proposal is applied to what the user wrote, the result is judged again, and only what works is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from .base import Node, Path
from .diagnostics import Diagnostic, Edit, Fix
from .fields import Shape, child_shape
from .merge import expand
from .nodes import Entry, MappingNode, SequenceNode, YamlNode, from_data
from .source import Span

Judge = Callable[[YamlNode], list[Diagnostic]]
"""What is wrong with a tree."""

MAX_TRIALS = 60
"""Proposals tried for one spec; a spec with more faults than that has its help cut short, not its answer delayed."""


class CannotApply(Exception):
    """An edit does not fit the tree."""


def checked_help(
    diagnostics: Iterable[Diagnostic], tree: YamlNode, *, judge: Judge, root: type[Node]
) -> list[Diagnostic]:
    """Each diagnostic with the first of its fixes that works as its help."""
    all_now = list(diagnostics)
    known = {_key(diagnostic) for diagnostic in all_now}
    trials = 0
    result = []
    for diagnostic in all_now:
        for fix in diagnostic.fixes:
            trials += 1
            if trials <= MAX_TRIALS and works(fix, diagnostic, tree, known=known, judge=judge, root=root):
                diagnostic = replace(diagnostic, help=fix.help)
                break
        result.append(replace(diagnostic, fixes=()))
    return result


def works(
    fix: Fix, diagnostic: Diagnostic, tree: YamlNode, *, known: set[object], judge: Judge, root: type[Node]
) -> bool:
    """Whether the fault goes away and the edited places have no new one."""
    try:
        edited = apply(fix.edits, tree, root=root)
    except CannotApply:
        return False
    after = judge(edited)
    if any(_key(other) == _key(diagnostic) for other in after):
        return False
    touched = [path for edit in fix.edits for path in _touched(edit)]
    return not any(_key(other) not in known and _concerns(other, touched) for other in after)


def _key(diagnostic: Diagnostic) -> object:
    return diagnostic.code, diagnostic.path, diagnostic.part


def _touched(edit: Edit) -> tuple[Path, ...]:
    if edit.action == "rename":
        return edit.path, (*edit.path[:-1], edit.to)
    return (edit.path, edit.to) if edit.action == "move" else (edit.path,)


def _concerns(diagnostic: Diagnostic, touched: list[Path]) -> bool:
    paths = [diagnostic.path, *(label.path for label in diagnostic.labels)]
    return any(
        path is not None and (path[: len(place)] == place or place[: len(path)] == path)
        for path in paths
        for place in touched
    )


def apply(edits: tuple[Edit, ...], tree: YamlNode, *, root: type[Node]) -> YamlNode:
    """The tree after all edits."""
    for edit in edits:
        if edit.action == "rename":
            value = _get(tree, edit.path)
            target = (*edit.path[:-1], edit.to)
            if _has(tree, target):
                raise CannotApply
            tree = _put(_remove(tree, edit.path), target, value, shape=Shape(node=root))
        elif edit.action == "move":
            if _has(tree, edit.to):
                raise CannotApply
            value = _get(tree, edit.path)
            tree = _put(_remove(tree, edit.path), edit.to, value, shape=Shape(node=root))
        elif edit.action == "remove":
            tree = _remove(tree, edit.path)
        else:
            span = tree.span
            tree = _put(tree, edit.path, from_data(edit.to, span=span, written=True), shape=Shape(node=root))
    return tree


def _get(tree: YamlNode, path: Path) -> YamlNode:
    for key in path:
        if isinstance(tree, MappingNode) and key in tree.entries:
            tree = tree.entries[str(key)].value
        elif isinstance(tree, SequenceNode) and isinstance(key, int) and key < len(tree.items):
            tree = tree.items[key]
        else:
            raise CannotApply
    return tree


def _has(tree: YamlNode, path: Path) -> bool:
    try:
        _get(tree, path)
    except CannotApply:
        return False
    return True


def _remove(tree: YamlNode, path: Path) -> YamlNode:
    key, rest = path[0], path[1:]
    if isinstance(tree, MappingNode) and key in tree.entries:
        entry = tree.entries[str(key)]
        entries = dict(tree.entries)
        if rest:
            entries[str(key)] = Entry(entry.key, _remove(entry.value, rest))
        else:
            del entries[str(key)]
        return MappingNode(entries, tree.span, tree.written)
    if isinstance(tree, SequenceNode) and isinstance(key, int) and key < len(tree.items):
        items = list(tree.items)
        items[key : key + 1] = [_remove(items[key], rest)] if rest else []
        return SequenceNode(tuple(items), tree.span, tree.written)
    raise CannotApply


def _put(
    tree: YamlNode | None, path: Path, value: YamlNode, *, shape: Shape, at: Path = (), span: Span | None = None
) -> YamlNode:
    """The tree with `value` at `path`; mappings on the way are made, shorthands written out."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    here = span or value.span
    node = MappingNode({}, here) if tree is None else expand(at, tree)
    if isinstance(node, MappingNode) and isinstance(key, str):
        entry = node.entries.get(key)
        inner = child_shape(shape, node, key)
        below = _put(entry.value if entry else None, rest, value, shape=inner, at=(*at, key))
        return MappingNode({**node.entries, key: Entry(entry.key if entry else here, below)}, node.span, node.written)
    if isinstance(node, SequenceNode) and isinstance(key, int) and key < len(node.items):
        below = _put(node.items[key], rest, value, shape=shape.item or Shape(), at=(*at, key))
        return SequenceNode((*node.items[:key], below, *node.items[key + 1 :]), node.span, node.written)
    raise CannotApply
