"""What the language admits at a place, read off the models: the fields of a mapping, the members of a union, the choices.

Error messages, merging and `--set` ask here, so that no second description of the language exists.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Discriminator, Tag
from pydantic.fields import FieldInfo

from .base import Node, Path
from .nodes import MappingNode, ScalarNode, SequenceNode, YamlNode


@dataclass(frozen=True)
class Shape:
    """The values that one place takes."""

    node: type[Node] | None = None
    """A mapping with this class' fields."""
    members: Mapping[str, type[Node]] = field(default_factory=dict)
    """A union of mappings, by tag."""
    tag_of: Callable[[Mapping[str, Any]], str | None] | None = None
    """The tag of a mapping of that union."""
    tag_key: str | None = None
    """The key that carries the tag (`kind`), if it is one key."""
    item: Shape | None = None
    """A list of these."""
    choices: tuple[Any, ...] = ()
    is_nullable: bool = False
    is_required: bool = False
    description: str = ""
    usual_tag: str | None = None
    """The member of a union that is used if the field is not given."""

    def classes(self) -> tuple[type[Node], ...]:
        return (self.node,) if self.node is not None else tuple(self.members.values())


@cache
def fields_of(node: type[Node]) -> dict[str, Shape]:
    """The fields of a section, in the order of its class."""
    return {name: _shape_of_field(info) for name, info in node.model_fields.items()}


def _shape_of_field(info: FieldInfo) -> Shape:
    found = _shape(info.annotation, (*info.metadata, info))
    usual = getattr(info.default, found.tag_key, None) if found.tag_key is not None else None
    return replace(found, is_required=info.is_required(), description=info.description or "", usual_tag=usual)


def _shape(annotation: Any, metadata: tuple[Any, ...] = ()) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], (*annotation.__metadata__, *metadata))
    if origin in (Union, types.UnionType):
        return _shape_of_union(arguments, metadata)
    if origin is Literal:
        return Shape(choices=arguments)
    if origin is tuple:
        return Shape(item=_shape(arguments[0]))
    if isinstance(annotation, type) and issubclass(annotation, Node):
        return Shape(node=annotation)
    return Shape()


def _shape_of_union(arguments: tuple[Any, ...], metadata: tuple[Any, ...]) -> Shape:
    others = [argument for argument in arguments if argument is not type(None)]
    is_nullable = len(others) < len(arguments)
    discriminator = next(filter(None, map(_discriminator, metadata)), None)
    if discriminator is not None and len(others) > 1:
        return _tagged(others, discriminator, is_nullable=is_nullable)
    shapes = [_shape(other, metadata if len(others) == 1 else ()) for other in others]
    merged = shapes[0]
    for shape in shapes[1:]:
        merged = Shape(
            node=merged.node or shape.node, item=merged.item or shape.item, choices=merged.choices + shape.choices
        )
    return replace(merged, is_nullable=is_nullable)


def _discriminator(metadata: Any) -> str | Callable[[Any], Any] | None:
    found = getattr(metadata, "discriminator", None)
    return found.discriminator if isinstance(found, Discriminator) else found


def _tagged(members: list[Any], discriminator: Any, *, is_nullable: bool) -> Shape:
    if isinstance(discriminator, str):
        by_tag = {tag: member for member in members for tag in get_args(member.model_fields[discriminator].annotation)}
        return Shape(
            members=by_tag, tag_of=lambda data: data.get(discriminator), tag_key=discriminator, is_nullable=is_nullable
        )
    by_tag = {}
    for member in members:
        tag = next(item.tag for item in member.__metadata__ if isinstance(item, Tag))
        by_tag[tag] = get_args(member)[0]
    return Shape(members=by_tag, tag_of=discriminator, is_nullable=is_nullable)


def tag_of(shape: Shape, node: YamlNode | None) -> str | None:
    """Which member of a union a mapping means, as far as its keys tell."""
    if shape.tag_of is None or not isinstance(node, MappingNode):
        return None
    data = {key: entry.value.value for key, entry in node.entries.items() if isinstance(entry.value, ScalarNode)}
    tag = shape.tag_of({**dict.fromkeys(node.entries), **data})
    return tag if isinstance(tag, str) and tag in shape.members else None


def class_at(shape: Shape, node: YamlNode | None) -> type[Node] | None:
    """The class that a value at a place would become."""
    if shape.node is not None:
        return shape.node
    tag = tag_of(shape, node)
    return None if tag is None else shape.members[tag]


def child_shape(shape: Shape, node: YamlNode | None, key: str | int) -> Shape:
    """What stands under a key of a value; an empty shape where the language has no such key."""
    if isinstance(key, int):
        return shape.item or Shape()
    found = class_at(shape, node)
    return fields_of(found).get(key, Shape()) if found is not None else Shape()


def child(node: YamlNode | None, key: str | int) -> YamlNode | None:
    if isinstance(node, MappingNode) and isinstance(key, str):
        return node.get(key)
    if isinstance(node, SequenceNode) and isinstance(key, int) and 0 <= key < len(node.items):
        return node.items[key]
    return None


def walk(root: type[Node], tree: YamlNode | None, path: Path) -> tuple[Shape, YamlNode | None]:
    """The shape and the value at a path of a spec."""
    shape, node = Shape(node=root), tree
    for key in path:
        shape, node = child_shape(shape, node, key), child(node, key)
    return shape, node


def untagged(root: type[Node], tree: YamlNode | None, location: tuple[str | int, ...]) -> Path:
    """A location of pydantic's without what it inserts: union tags, and the names of a scalar union's members.

    ("model", "attention", "gqa", "window") -> ("model", "attention", "window")
    """
    shape, node = Shape(node=root), tree
    path: list[str | int] = []
    rest = list(location)
    while rest:
        if shape.members and rest[0] == tag_of(shape, node):
            shape, rest = Shape(node=shape.members[str(rest[0])]), rest[1:]
            continue
        is_place = shape.node is not None or shape.members or (shape.item is not None and isinstance(rest[0], int))
        if not is_place and path:
            break
        path.append(rest[0])
        shape, node, rest = child_shape(shape, node, rest[0]), child(node, rest[0]), rest[1:]
    return tuple(path)


def find_field(root: type[Node], name: str) -> Iterator[Path]:
    """Paths at which the language has a field of this name, nearest to the root first (lists count as their items)."""
    queue: list[tuple[Path, Shape]] = [((), Shape(node=root))]
    seen: set[type[Node]] = set()
    while queue:
        path, shape = queue.pop(0)
        for cls in (shape.item or shape).classes():
            if cls in seen:
                continue
            seen.add(cls)
            for key, inner in fields_of(cls).items():
                if key == name:
                    yield (*path, key)
                queue.append(((*path, key), inner))
