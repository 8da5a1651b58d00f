"""What a wrong key or value may have meant: fixes, each of which is tried before it is printed (fixes.py)."""

from __future__ import annotations

from collections.abc import Iterator

from .base import Path
from .diagnostics import Edit, Fix
from .document import Spec
from .fault import Fault
from .fields import find_field, walk
from .nodes import ScalarNode
from .quantities import in_unit_of
from .suggest import did_you_mean
from .synonyms import SYNONYMS, VALUE_SYNONYMS


def misspelt(fault: Fault, known: list[str]) -> Iterator[Fix]:
    for near in did_you_mean(fault.name, known):
        yield Fix(f"did you mean `{near}`?", (Edit("rename", fault.path, near),))


def synonym(fault: Fault) -> Iterator[Fix]:
    """Names that other tools use."""
    here = _unnumbered(fault.path[:-1])
    for target in SYNONYMS.get(fault.name, ()):
        if target[: len(here)] == here:
            yield _move(fault, target, f"`{_dotted(target)}` is the name here")


def elsewhere(fault: Fault) -> Iterator[Fix]:
    """A field of another section: `lr` under `train` belongs to `train.optimizer`."""
    for target in find_field(Spec, fault.name):
        if fault.name not in ("kind", "name", "path", "bias", "source", "dtype", "text"):
            yield _move(fault, target, f"`{_dotted(target)}` is where it belongs")


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


def _unnumbered(path: Path) -> Path:
    return tuple(key for key in path if not isinstance(key, int))


def _dotted(path: Path) -> str:
    return ".".join(str(key) for key in path)


def same_value(given: str, known: list[str]) -> list[str]:
    """The choice that other tools call by this word."""
    return [ours for ours in (VALUE_SYNONYMS.get(given.lower()),) if ours in known]


_WORDS_OF_BOOL = {"yes": True, "on": True, "y": True, "1": True, "no": False, "off": False, "n": False, "0": False}


def retyped(fault: Fault, expected: str) -> Iterator[Fix]:
    """The value that was meant: YAML 1.2 reads `yes` as text, quotes make a number text."""
    if not isinstance(fault.node, ScalarNode):
        return
    value = fault.node.value
    if expected.startswith("true or false") and str(value).lower() in _WORDS_OF_BOOL:
        meant = _WORDS_OF_BOOL[str(value).lower()]
        yield Fix(f"YAML 1.2 writes this `{str(meant).lower()}`", (Edit("set", fault.path, meant),))
    if expected.startswith("a number") and isinstance(value, str):
        number, quantity = _number(value), in_unit_of(fault.path, value)
        if quantity is not None:
            meant, unit = quantity
            yield Fix(f"the unit is in the name: in {unit} it is `{meant:g}`", (Edit("set", fault.path, meant),))
        if number is not None:
            yield Fix(f"write it without quotes: `{number:g}`", (Edit("set", fault.path, number),))
    if expected.startswith("text") and value is not None and not isinstance(value, str):
        yield Fix(f'write it as text: `"{value}"`', (Edit("set", fault.path, str(value)),))
    if expected.startswith("a list"):
        yield Fix("write it as a list of one", (Edit("set", fault.path, [value]),))


def _number(text: str) -> float | None:
    try:
        plain = text.replace("_", "").strip()
        return float(plain[:-1]) / 100 if plain.endswith("%") else float(plain)
    except ValueError:
        return None


def plain_name(fault: Fault) -> Iterator[Fix]:
    """A name in capitals or with blanks, as the pattern wants it."""
    if fault.path == ("name",) and isinstance(fault.node, ScalarNode):
        plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in str(fault.node.value).lower())
        plain = "-".join(filter(None, plain.split("-")))[:64].strip("-")
        if plain:
            yield Fix(f"`name: {plain}`", (Edit("set", fault.path, plain),))


def as_count(fault: Fault) -> Iterator[Fix]:
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
