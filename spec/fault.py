"""One error of pydantic's at its place in the user's tree, and how a message names places and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Path
from .document import Spec
from .fields import Shape, tag_of, walk
from .nodes import MappingNode, SequenceNode, YamlNode


@dataclass(frozen=True)
class Fault:
    """One error of pydantic's, with what the language and the user have at its place."""

    type: str
    path: Path
    message: str
    context: dict[str, Any]
    shape: Shape
    node: YamlNode | None
    tree: MappingNode

    @property
    def name(self) -> str:
        return str(self.path[-1]) if self.path else "the spec"

    def parent(self) -> tuple[Shape, YamlNode | None]:
        return walk(Spec, self.tree, self.path[:-1])


def place(path: Path, tree: MappingNode | None = None) -> str:
    """A place in words: `model.attention`, `train`, with its kind where the language has several."""
    dotted = ".".join(str(key) for key in path if not (path[:1] == ("train",) and key == 0))
    if not path:
        return "a spec"
    shape, node = walk(Spec, tree, path)
    tag = tag_of(shape, node)
    if tag is not None and shape.tag_key is not None:
        return f"`{dotted}` with {shape.tag_key} `{tag}`"
    return f"`{dotted}`"


def shown(node: YamlNode | None) -> str:
    """A value as a message names it."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if node is None or node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return str(node.value).lower()
    if isinstance(node.value, str):
        text = node.value if len(node.value) <= 60 else node.value[:57] + "…"
        return f"the text `{text}`"
    return f"{node.value}"


def field_name(fault: Fault) -> str:
    """The field that a value belongs to: items of a list have no name of their own."""
    names = [key for key in fault.path if isinstance(key, str)]
    return names[-1] if names else "the spec"


def choice_text(value: Any) -> str:
    """A choice as YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
