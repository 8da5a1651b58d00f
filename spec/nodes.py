"""A YAML document as a tree that remembers where each key and value stands. What `compose.py` reads and `merge.py` lays over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .base import Path
from .source import Span

Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class ScalarNode:
    value: Scalar
    span: Span
    written: bool = True
    """Whether the user wrote it; false for what a preset or the catalog filled in (its span is then the preset's name)."""


@dataclass(frozen=True)
class SequenceNode:
    items: tuple[YamlNode, ...]
    span: Span
    written: bool = True


@dataclass(frozen=True)
class Entry:
    """One `key: value` of a mapping."""

    key: Span
    value: YamlNode


@dataclass(frozen=True)
class MappingNode:
    entries: Mapping[str, Entry]
    span: Span
    written: bool = True

    def get(self, key: str) -> YamlNode | None:
        entry = self.entries.get(key)
        return None if entry is None else entry.value


YamlNode = ScalarNode | SequenceNode | MappingNode


def to_data(node: YamlNode) -> Any:
    """Plain Python values; sequences become tuples, which is what the frozen models hold."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, SequenceNode):
        return tuple(to_data(item) for item in node.items)
    return {key: to_data(entry.value) for key, entry in node.entries.items()}


def from_data(value: Any, *, span: Span, written: bool = False) -> YamlNode:
    """Nodes for values that no YAML of the user holds: what the catalog fills in. All stand at `span`."""
    if isinstance(value, dict):
        entries = {str(key): Entry(span, from_data(item, span=span, written=written)) for key, item in value.items()}
        return MappingNode(entries, span, written)
    if isinstance(value, (list, tuple)):
        return SequenceNode(tuple(from_data(item, span=span, written=written) for item in value), span, written)
    return ScalarNode(value, span, written)


@dataclass(frozen=True)
class Site:
    """Where one value of a spec comes from."""

    key: Span
    value: Span
    written: bool


def sites(node: YamlNode, *, path: Path = (), key: Span | None = None) -> Iterator[tuple[Path, Site]]:
    """Every path of the tree with its site, parents first."""
    yield path, Site(key or node.span, node.span, node.written)
    if isinstance(node, MappingNode):
        for name, entry in node.entries.items():
            yield from sites(entry.value, path=(*path, name), key=entry.key)
    elif isinstance(node, SequenceNode):
        is_short = len(node.items) == 1 and node.items[0].span == node.span  # `train: {…}`: the key names the item too
        for index, item in enumerate(node.items):
            yield from sites(item, path=(*path, index), key=key if is_short else None)


@dataclass(frozen=True)
class SourceMap:
    """Spec path -> file, line and column, for every key of the spec, those from presets included."""

    sites: Mapping[Path, Site] = field(default_factory=dict)

    def site(self, path: Path) -> Site | None:
        """The site of `path`, or of the nearest path above it that has one."""
        for length in range(len(path), -1, -1):
            found = self.sites.get(path[:length])
            if found is not None:
                return found
        return None

    def is_written(self, path: Path) -> bool:
        """Whether the user wrote this very key, in the spec, one that it extends, or a `--set`."""
        found = self.sites.get(path)
        return found is not None and found.written

    @property
    def written(self) -> tuple[Path, ...]:
        """Paths of all keys that the user wrote."""
        return tuple(path for path, site in self.sites.items() if site.written)
