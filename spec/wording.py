"""Pydantic's errors in the user's words: one function an error type, joined by the table WORDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .diagnostics import Diagnostic, Edit, Fix, diagnose
from .fault import Fault, choice_text, field_name, place, shown
from .fields import Shape, class_at, fields_of
from .nodes import MappingNode, ScalarNode
from .proposals import as_count, elsewhere, misspelt, plain_name, retyped, same_value, synonym
from .suggest import by_closeness, did_you_mean, listing


def _unknown_field(fault: Fault) -> Diagnostic:
    shape, parent = fault.parent()
    cls = class_at(shape, parent)
    known = list(fields_of(cls)) if cls is not None else []
    given = set(parent.entries) if isinstance(parent, MappingNode) else set()
    open_names = [name for name in known if name not in given]
    notes = list(_belongs_to_other_kind(fault, shape))
    if fault.name == "<<":
        notes.append("`<<` is not part of YAML 1.2; `extends` lays one spec over another")
    else:
        notes.append(f"fields, closest first: {listing(by_closeness(fault.name, known))}")
    return diagnose(
        "S104",
        f"`{fault.name}` is not a field of {place(fault.path[:-1], fault.tree)}",
        path=fault.path,
        part="key",
        notes=notes,
        fixes=[*synonym(fault), *misspelt(fault, open_names), *elsewhere(fault)],
    )


def _belongs_to_other_kind(fault: Fault, shape: Shape) -> Iterator[str]:
    owners = [tag for tag, cls in shape.members.items() if fault.name in fields_of(cls)]
    if owners and shape.tag_key:
        yield f"it is a field of {shape.tag_key} {listing(owners)}"
    elif owners:
        yield f"one of the keys {listing(list(shape.members))} says what it is, not two"


def _unknown_kind(fault: Fault) -> Diagnostic:
    key = fault.shape.tag_key or "kind"
    node = fault.node.get(key) if isinstance(fault.node, MappingNode) else fault.node
    path = (*fault.path, key) if isinstance(fault.node, MappingNode) else fault.path
    given = str(node.value) if isinstance(node, ScalarNode) else ""
    known = list(fault.shape.members)
    fixes = [Fix(f"did you mean `{near}`?", (Edit("set", path, near),)) for near in did_you_mean(given, known)]
    return diagnose(
        "S109",
        f"{shown(node)} is no {key} of {place(fault.path)}".replace("the text ", ""),
        path=path,
        notes=[f"known, closest first: {listing(by_closeness(given, known))}"],
        fixes=fixes,
    )


def _no_kind(fault: Fault) -> Diagnostic:
    key = fault.shape.tag_key
    known = list(fault.shape.members)
    what = f"`{key}`: one of {listing(known)}" if key else f"one of the keys {listing(known)}"
    return diagnose("S105", f"{place(fault.path)} needs {what}", path=fault.path, part="key")


def _unknown_choice(fault: Fault) -> Diagnostic:
    known = [choice_text(choice) for choice in fault.shape.choices]
    given = choice_text(fault.node.value) if isinstance(fault.node, ScalarNode) else ""
    fixes = [
        Fix(f"did you mean `{near}`?", (Edit("set", fault.path, fault.shape.choices[known.index(near)]),))
        for near in [*same_value(given, known), *did_you_mean(given, known)]
    ]
    return diagnose(
        "S108",
        f"`{field_name(fault)}` cannot be {shown(fault.node)}",
        path=fault.path,
        notes=[f"it is one of {listing(by_closeness(given, known) if given else known)}"],
        fixes=fixes,
    )


def _wrong_type(expected: str) -> Callable[[Fault], Diagnostic]:
    def words(fault: Fault) -> Diagnostic:
        return diagnose(
            "S106",
            f"`{field_name(fault)}` is {expected}, not {shown(fault.node)}",
            path=fault.path,
            fixes=list(retyped(fault, expected)),
        )

    return words


def _out_of_range(fault: Fault) -> Diagnostic:
    words = {"greater_than": ("more than", "gt"), "greater_than_equal": ("at least", "ge"),
             "less_than": ("less than", "lt"), "less_than_equal": ("at most", "le")}  # fmt: skip
    relation, key = words[fault.type]
    bound = fault.context.get(key)
    bound_text = f"{bound:g}" if isinstance(bound, float) else f"{bound:,}" if isinstance(bound, int) else str(bound)
    return diagnose(
        "S107", f"`{field_name(fault)}` is {shown(fault.node)}, it must be {relation} {bound_text}", path=fault.path
    )


def _wrong_length(fault: Fault) -> Diagnostic:
    limit = fault.context.get("min_length", fault.context.get("max_length"))
    relation = "at least" if fault.type.endswith("too_short") else "at most"
    number = fault.context.get("actual_length", 0)
    unit = "characters" if fault.type.startswith("string") else "items"
    return diagnose("S107", f"`{field_name(fault)}` has {number} {unit}, it needs {relation} {limit}", path=fault.path)


def _bad_format(fault: Fault) -> Diagnostic:
    pattern = str(fault.context.get("pattern", ""))
    described = fault.shape.description or f"it matches {pattern}"
    return diagnose(
        "S116",
        f"{shown(fault.node)} is not a valid `{field_name(fault)}`",
        path=fault.path,
        notes=[described, f"as a pattern: {pattern}"],
        fixes=list(plain_name(fault)),
    )


def _bad_count(fault: Fault) -> Diagnostic:
    value = fault.node.value if isinstance(fault.node, ScalarNode) else None
    is_binary = isinstance(value, str) and value.strip().endswith("K")
    return diagnose(
        "S115",
        f"`{field_name(fault)}` is a whole number such as 4096, 4k or 15T, not {shown(fault.node)}",
        path=fault.path,
        notes=["`k` is 1,000; a multiple of 1,024 is written out"] if is_binary else (),
        fixes=list(as_count(fault)),
    )


def other(fault: Fault) -> Diagnostic:
    return diagnose("S116", f"`{field_name(fault)}` is {shown(fault.node)}: {fault.message}", path=fault.path)


def no_alternative(faults: list[Fault]) -> Diagnostic:
    """A number or one of some words: what every alternative wanted, in one sentence."""
    fault = faults[0]
    wanted = []
    for each in faults:
        if each.type == "literal_error":
            wanted += [f"`{choice_text(choice)}`" for choice in each.shape.choices]
        else:
            wanted.append(_EXPECTED.get(each.type, each.message.removeprefix("Input should be ")))
    unique = list(dict.fromkeys(wanted))
    given = choice_text(fault.node.value) if isinstance(fault.node, ScalarNode) else ""
    words = [choice for choice in fault.shape.choices if isinstance(choice, str)]
    fixes = [Fix(f"did you mean `{near}`?", (Edit("set", fault.path, near),)) for near in did_you_mean(given, words)]
    return diagnose(
        "S106", f"`{fault.name}` is {' or '.join(unique)}, not {shown(fault.node)}", path=fault.path, fixes=fixes
    )


_EXPECTED = {
    "bool_type": "true or false", "float_type": "a number", "string_type": "text", "tuple_type": "a list",
    "model_type": "a mapping", "model_attributes_type": "a mapping", "dict_type": "a mapping",
    "finite_number": "a finite number", "greater_than": "a number above its bound",
}  # fmt: skip

WORDS: dict[str, Callable[[Fault], Diagnostic]] = {
    "extra_forbidden": _unknown_field,
    "union_tag_invalid": _unknown_kind,
    "union_tag_not_found": _no_kind,
    "source_kind": _no_kind,
    "tokenizer_kind": _no_kind,
    "literal_error": _unknown_choice,
    "greater_than": _out_of_range,
    "greater_than_equal": _out_of_range,
    "less_than": _out_of_range,
    "less_than_equal": _out_of_range,
    "too_short": _wrong_length,
    "too_long": _wrong_length,
    "string_too_short": _wrong_length,
    "string_too_long": _wrong_length,
    "string_pattern_mismatch": _bad_format,
    "count": _bad_count,
    "int_type": _bad_count,
    "int_from_float": _bad_count,
    "int_parsing": _bad_count,
    "topology": other,
    **{type: _wrong_type(expected) for type, expected in _EXPECTED.items() if type not in ("greater_than",)},
}
