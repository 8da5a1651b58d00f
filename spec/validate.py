"""A resolved tree -> the frozen `Spec`, or a diagnostic for everything that pydantic found.

Pydantic says what is wrong; this file says it in the user's words and finds the place. Each error type has one
function below; the table at the end joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from .base import Path
from .diagnostics import Diagnostic, Edit, Fix, diagnose
from .document import Spec
from .fields import Shape, class_at, fields_of, find_field, tag_of, untagged, walk
from .nodes import MappingNode, ScalarNode, SequenceNode, YamlNode, to_data
from .suggest import by_closeness, did_you_mean, listing
from .synonyms import SYNONYMS, VALUE_SYNONYMS


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


def validate(tree: MappingNode) -> tuple[Spec | None, list[Diagnostic]]:
    """The spec, or what is wrong with its fields."""
    try:
        return Spec.model_validate(to_data(tree)), []
    except ValidationError as error:
        return None, list(_translate(error, tree))


def _translate(error: ValidationError, tree: MappingNode) -> Iterator[Diagnostic]:
    """One diagnostic a place; the members of a scalar union (`number or word`) complain together."""
    by_path: dict[Path, list[Fault]] = {}
    for raw in error.errors(include_url=False, include_input=False):
        if raw["type"] == "default_factory_not_called":
            continue  # follows from another fault
        path = untagged(Spec, tree, raw["loc"])
        shape, node = walk(Spec, tree, path)
        fault = Fault(raw["type"], path, raw["msg"], raw.get("ctx", {}), shape, node, tree)
        if (
            fault.type == "too_short"
            and isinstance(node, SequenceNode)
            and len(node.items) >= fault.context["min_length"]
        ):
            continue  # pydantic counts the valid items, and the others are reported
        by_path.setdefault(path, []).append(fault)
    missing: dict[Path, list[Fault]] = {}
    for faults in by_path.values():
        fault = faults[0]
        if fault.type == "missing":
            missing.setdefault(fault.path[:-1], []).append(fault)
        else:
            said = _no_alternative(faults) if len(faults) > 1 else _WORDS.get(fault.type, _other)(fault)
            yield _about_environment(said, fault)
    for faults in missing.values():
        yield _missing(faults)


def _about_environment(diagnostic: Diagnostic, fault: Fault) -> Diagnostic:
    """Other tools fill in `${…}`; we do not, on purpose."""
    if not isinstance(fault.node, ScalarNode) or "${" not in str(fault.node.value):
        return diagnostic
    note = "`${…}` is not filled in: a plan must not depend on the shell; `--set` gives a value on the command line"
    return replace(diagnostic, notes=(*diagnostic.notes, note))


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


def _missing(faults: list[Fault]) -> Diagnostic:
    """All fields that a mapping lacks, in one diagnostic at the key above it."""
    parent = faults[0].path[:-1]
    names = [fault.name for fault in faults]
    notes = []
    for fault in faults[:6]:
        described = fault.shape.description
        if described:
            notes.append(f"{fault.name}: {described}")
    if parent == ("model",) and len(names) > 2:
        notes = ["`preset: NAME` fills in everything, `family: NAME` all but the dimensions"]
    return diagnose(
        "S105", f"{place(parent, faults[0].tree)} needs {listing(names)}", path=parent, part="key", notes=notes
    )


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
        fixes=[*_synonym(fault), *_misspelt(fault, open_names), *_elsewhere(fault)],
    )


def _synonym(fault: Fault) -> Iterator[Fix]:
    """Names that other tools use."""
    here = _unnumbered(fault.path[:-1])
    for target in SYNONYMS.get(fault.name, ()):
        if target[: len(here)] == here:
            yield _move(fault, target, f"`{_dotted(target)}` is the name here")


def _unnumbered(path: Path) -> Path:
    return tuple(key for key in path if not isinstance(key, int))


def _dotted(path: Path) -> str:
    return ".".join(str(key) for key in path)


def _move(fault: Fault, target: Path, help: str) -> Fix:
    """Move the value at a fault to another path, given without list indices; its new home gets its usual kind."""
    stages = fault.path[:2] if fault.path[:1] == ("train",) else ("train", 0)
    numbered = (*stages, *target[1:]) if target[:1] == ("train",) else target
    edits = [Edit("move", fault.path, numbered)]
    home, node = walk(Spec, fault.tree, numbered[:-1])
    if node is None and home.tag_key is not None and home.usual_tag is not None:
        edits.append(Edit("set", (*numbered[:-1], home.tag_key), home.usual_tag))
        help += f", with `{home.tag_key}: {home.usual_tag}`"
    return Fix(help, tuple(edits))


def _misspelt(fault: Fault, known: list[str]) -> Iterator[Fix]:
    for near in did_you_mean(fault.name, known):
        yield Fix(f"did you mean `{near}`?", (Edit("rename", fault.path, near),))


def _elsewhere(fault: Fault) -> Iterator[Fix]:
    """A field of another section: `lr` under `train` belongs to `train.optimizer`."""
    for target in find_field(Spec, fault.name):
        if fault.name not in ("kind", "name", "path", "bias", "source", "dtype", "text"):
            yield _move(fault, target, f"`{_dotted(target)}` is where it belongs")


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
    known = [_choice(choice) for choice in fault.shape.choices]
    given = _choice(fault.node.value) if isinstance(fault.node, ScalarNode) else ""
    fixes = [
        Fix(f"did you mean `{near}`?", (Edit("set", fault.path, fault.shape.choices[known.index(near)]),))
        for near in [*_same_value(given, known), *did_you_mean(given, known)]
    ]
    return diagnose(
        "S108",
        f"`{_field_name(fault)}` cannot be {shown(fault.node)}",
        path=fault.path,
        notes=[f"it is one of {listing(by_closeness(given, known) if given else known)}"],
        fixes=fixes,
    )


def _same_value(given: str, known: list[str]) -> list[str]:
    """The choice that other tools call by this word."""
    return [ours for ours in (VALUE_SYNONYMS.get(given.lower()),) if ours in known]


def _choice(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _wrong_type(expected: str) -> Callable[[Fault], Diagnostic]:
    def words(fault: Fault) -> Diagnostic:
        return diagnose(
            "S106",
            f"`{_field_name(fault)}` is {expected}, not {shown(fault.node)}",
            path=fault.path,
            fixes=list(_retyped(fault, expected)),
        )

    return words


def _field_name(fault: Fault) -> str:
    """The field that a value belongs to: items of a list have no name of their own."""
    names = [key for key in fault.path if isinstance(key, str)]
    return names[-1] if names else "the spec"


_WORDS_OF_BOOL = {"yes": True, "on": True, "y": True, "1": True, "no": False, "off": False, "n": False, "0": False}


def _retyped(fault: Fault, expected: str) -> Iterator[Fix]:
    """The value that was meant: YAML 1.2 reads `yes` as text, quotes make a number text."""
    if not isinstance(fault.node, ScalarNode):
        return
    value = fault.node.value
    if expected.startswith("true or false") and str(value).lower() in _WORDS_OF_BOOL:
        meant = _WORDS_OF_BOOL[str(value).lower()]
        yield Fix(f"YAML 1.2 writes this `{str(meant).lower()}`", (Edit("set", fault.path, meant),))
    if expected.startswith("a number") and isinstance(value, str):
        number = _number(value)
        if number is not None:
            yield Fix(f"write it without quotes: `{number:g}`", (Edit("set", fault.path, number),))
    if expected.startswith("text") and value is not None and not isinstance(value, str):
        yield Fix(f'write it as text: `"{value}"`', (Edit("set", fault.path, str(value)),))
    if expected.startswith("a list"):
        yield Fix("write it as a list of one", (Edit("set", fault.path, [value]),))


def _number(text: str) -> float | None:
    try:
        return float(text.replace("_", "").strip().rstrip("%"))
    except ValueError:
        return None


def _out_of_range(fault: Fault) -> Diagnostic:
    words = {"greater_than": ("more than", "gt"), "greater_than_equal": ("at least", "ge"),
             "less_than": ("less than", "lt"), "less_than_equal": ("at most", "le")}  # fmt: skip
    relation, key = words[fault.type]
    bound = fault.context.get(key)
    bound_text = f"{bound:g}" if isinstance(bound, float) else f"{bound:,}" if isinstance(bound, int) else str(bound)
    return diagnose(
        "S107", f"`{_field_name(fault)}` is {shown(fault.node)}, it must be {relation} {bound_text}", path=fault.path
    )


def _wrong_length(fault: Fault) -> Diagnostic:
    limit = fault.context.get("min_length", fault.context.get("max_length"))
    relation = "at least" if fault.type.endswith("too_short") else "at most"
    number = fault.context.get("actual_length", 0)
    unit = "characters" if fault.type.startswith("string") else "items"
    return diagnose("S107", f"`{_field_name(fault)}` has {number} {unit}, it needs {relation} {limit}", path=fault.path)


def _bad_format(fault: Fault) -> Diagnostic:
    pattern = str(fault.context.get("pattern", ""))
    described = fault.shape.description or f"it matches {pattern}"
    return diagnose(
        "S116",
        f"{shown(fault.node)} is not a valid `{_field_name(fault)}`",
        path=fault.path,
        notes=[described, f"as a pattern: {pattern}"],
        fixes=list(_slug(fault)),
    )


def _slug(fault: Fault) -> Iterator[Fix]:
    """A name in capitals or with blanks, as the pattern wants it."""
    if fault.path == ("name",) and isinstance(fault.node, ScalarNode):
        plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in str(fault.node.value).lower())
        plain = "-".join(filter(None, plain.split("-")))[:64].strip("-")
        if plain:
            yield Fix(f"`name: {plain}`", (Edit("set", fault.path, plain),))


def _bad_count(fault: Fault) -> Diagnostic:
    value = fault.node.value if isinstance(fault.node, ScalarNode) else None
    is_binary = isinstance(value, str) and value.strip().endswith("K")
    return diagnose(
        "S115",
        f"`{_field_name(fault)}` is a whole number such as 4096, 4k or 15T, not {shown(fault.node)}",
        path=fault.path,
        notes=["`k` is 1,000; a multiple of 1,024 is written out"] if is_binary else (),
        fixes=list(_count_fixes(fault)),
    )


def _count_fixes(fault: Fault) -> Iterator[Fix]:
    """4K, 4_096, "1,000" and 8 million as counts are written here."""
    value = fault.node.value if isinstance(fault.node, ScalarNode) else None
    if isinstance(value, float):
        yield Fix(f"`{round(value)}` is the nearest whole number", (Edit("set", fault.path, round(value)),))
    if not isinstance(value, str):
        return
    plain = value.replace("_", "").replace(",", "").replace(" ", "")
    for word, suffix in (("thousand", "k"), ("million", "M"), ("billion", "B"), ("trillion", "T")):
        plain = plain.replace(word, suffix)
    for other, meant in (("K", "k"), ("m", "M"), ("b", "B"), ("G", "B"), ("g", "B"), ("t", "T"), ("", "")):
        if plain[:-1].replace(".", "", 1).isdecimal() and other and plain.endswith(other):
            yield Fix(f"write `{plain[:-1]}{meant}`", (Edit("set", fault.path, plain[:-1] + meant),))
    if plain != value:
        yield Fix(f"write `{plain}`", (Edit("set", fault.path, plain),))


def _custom(fault: Fault) -> Diagnostic:
    return diagnose("S116", f"`{_field_name(fault)}` is {shown(fault.node)}: {fault.message}", path=fault.path)


def _no_alternative(faults: list[Fault]) -> Diagnostic:
    """A number or one of some words: what every alternative wanted, in one sentence."""
    fault = faults[0]
    wanted = []
    for each in faults:
        if each.type == "literal_error":
            wanted += [f"`{_choice(choice)}`" for choice in each.shape.choices]
        else:
            wanted.append(_EXPECTED.get(each.type, each.message.removeprefix("Input should be ")))
    unique = list(dict.fromkeys(wanted))
    given = _choice(fault.node.value) if isinstance(fault.node, ScalarNode) else ""
    words = [choice for choice in fault.shape.choices if isinstance(choice, str)]
    fixes = [Fix(f"did you mean `{near}`?", (Edit("set", fault.path, near),)) for near in did_you_mean(given, words)]
    return diagnose(
        "S106", f"`{fault.name}` is {' or '.join(unique)}, not {shown(fault.node)}", path=fault.path, fixes=fixes
    )


def _other(fault: Fault) -> Diagnostic:
    return diagnose("S116", f"`{_field_name(fault)}` is {shown(fault.node)}: {fault.message}", path=fault.path)


_EXPECTED = {
    "bool_type": "true or false", "float_type": "a number", "string_type": "text", "tuple_type": "a list",
    "model_type": "a mapping", "model_attributes_type": "a mapping", "dict_type": "a mapping",
    "finite_number": "a finite number", "greater_than": "a number above its bound",
}  # fmt: skip

_WORDS: dict[str, Callable[[Fault], Diagnostic]] = {
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
    "topology": _custom,
    **{type: _wrong_type(expected) for type, expected in _EXPECTED.items() if type not in ("greater_than",)},
}
