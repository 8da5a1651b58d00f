"""One spec laid over another: `extends`, `--set`, and presets all merge by the rules here.

Mappings merge key by key, everything else is replaced. Where the upper mapping chooses another member of a union
(another `kind`, `name` or `target`), the lower one is replaced too: options of one kind mean nothing to another.
"""

from __future__ import annotations

from .base import Node, Path
from .fields import Shape, child_shape, tag_of
from .nodes import Entry, MappingNode, ScalarNode, SequenceNode, YamlNode

SHORTHANDS: dict[Path, str] = {
    ("parallel",): "rest",
    ("objective",): "kind",
    ("accelerator",): "like",
    ("hardware", "host"): "like",
    ("hardware", "storage"): "like",
}
"""Last keys of a path -> the key that a bare word at that path stands for: `parallel: auto` is `{rest: auto}`."""


def expand(path: Path, node: YamlNode) -> YamlNode:
    """A bare word written out as the mapping it is short for; other values as they are."""
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or not path:
        return node
    if path[-1] == "layout" and node.value == "auto":
        return MappingNode({}, node.span, node.written)
    key = SHORTHANDS.get(path[-1:]) or SHORTHANDS.get(path[-2:])
    if key is None or (key == "rest" and node.value != "auto"):
        return node
    return MappingNode({key: Entry(node.span, node)}, node.span, node.written)


def overlay(lower: YamlNode, upper: YamlNode, *, shape: Shape, path: Path = ()) -> YamlNode:
    """`upper` laid over `lower`; positions go along."""
    if isinstance(upper, MappingNode):
        lower = expand(path, lower)
    if not isinstance(lower, MappingNode) or not isinstance(upper, MappingNode):
        return upper
    lower_tag, upper_tag = tag_of(shape, lower), tag_of(shape, upper)
    if _chooses_another(shape, lower_tag, upper, upper_tag):
        return upper
    merged = dict(lower.entries)
    for key, entry in upper.entries.items():
        below = lower.entries.get(key)
        if below is None:
            merged[key] = entry
            continue
        inner = child_shape(shape, lower, key)
        merged[key] = Entry(entry.key, overlay(below.value, entry.value, shape=inner, path=(*path, key)))
    return MappingNode(merged, upper.span, lower.written or upper.written)


def _chooses_another(shape: Shape, lower_tag: str | None, upper: MappingNode, upper_tag: str | None) -> bool:
    if shape.tag_key is not None and shape.tag_key in upper.entries:
        return upper_tag != lower_tag
    return upper_tag is not None and upper_tag != lower_tag


def one_stage_as_list(tree: YamlNode) -> YamlNode:
    """`train: {…}` as `train: [{…}]`, so that a path means the same for both."""
    if not isinstance(tree, MappingNode):
        return tree
    entry = tree.entries.get("train")
    if entry is None or not isinstance(entry.value, MappingNode):
        return tree
    stages = SequenceNode((entry.value,), entry.value.span, entry.value.written)
    return MappingNode({**tree.entries, "train": Entry(entry.key, stages)}, tree.span, tree.written)


def lay_over(lower: YamlNode, upper: YamlNode, *, root: type[Node]) -> YamlNode:
    """A whole spec over another. A single training stage merges with a single one; a list of several replaces."""
    lower, upper = one_stage_as_list(lower), one_stage_as_list(upper)
    merged = overlay(lower, upper, shape=Shape(node=root))
    if not (isinstance(lower, MappingNode) and isinstance(upper, MappingNode) and isinstance(merged, MappingNode)):
        return merged
    below, above = lower.get("train"), upper.get("train")
    if not (isinstance(below, SequenceNode) and isinstance(above, SequenceNode)):
        return merged
    if len(below.items) != 1 or len(above.items) != 1:
        return merged
    shape = child_shape(Shape(node=root), lower, "train").item or Shape()
    stage = overlay(below.items[0], above.items[0], shape=shape, path=("train", 0))
    entry = Entry(upper.entries["train"].key, SequenceNode((stage,), above.span, above.written))
    return MappingNode({**merged.entries, "train": entry}, merged.span, merged.written)
