"""A resolved tree -> the frozen `Spec`, or a diagnostic for everything that pydantic found.

Pydantic says what is wrong, `wording.py` says it in the user's words; here each error finds its place and its company.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import ValidationError

from .base import Path
from .diagnostics import Diagnostic, diagnose
from .document import Spec
from .fault import Fault, place
from .fields import untagged, walk
from .nodes import MappingNode, ScalarNode, SequenceNode, to_data
from .suggest import listing
from .wording import WORDS, no_alternative, other


def validate(tree: MappingNode) -> tuple[Spec | None, list[Diagnostic]]:
    """The spec, or what is wrong with its fields."""
    try:
        return Spec.model_validate(to_data(tree)), []
    except ValidationError as error:
        return None, list(_translate(error, tree))


def _translate(error: ValidationError, tree: MappingNode) -> Iterator[Diagnostic]:
    """One diagnostic a place; the members of a scalar union (`number or word`) complain together."""
    by_path: dict[Path, list[Fault]] = {}
    for fault in _faults(error, tree):
        by_path.setdefault(fault.path, []).append(fault)
    missing: dict[Path, list[Fault]] = {}
    for faults in by_path.values():
        fault = faults[0]
        if fault.type == "missing":
            missing.setdefault(fault.path[:-1], []).append(fault)
        else:
            said = no_alternative(faults) if len(faults) > 1 else WORDS.get(fault.type, other)(fault)
            yield _about_environment(said, fault)
    for faults in missing.values():
        yield _missing(faults)


def _faults(error: ValidationError, tree: MappingNode) -> Iterator[Fault]:
    """Pydantic's errors at their places, without those that only follow from others."""
    for raw in error.errors(include_url=False, include_input=False):
        path = untagged(Spec, tree, raw["loc"])
        shape, node = walk(Spec, tree, path)
        fault = Fault(raw["type"], path, raw["msg"], raw.get("ctx", {}), shape, node, tree)
        if not _follows(fault):
            yield fault


def _follows(fault: Fault) -> bool:
    """A default that depends on a faulty field; a list that is only short of its faulty items."""
    if fault.type == "too_short" and isinstance(fault.node, SequenceNode):
        return len(fault.node.items) >= fault.context["min_length"]
    return fault.type == "default_factory_not_called"


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


def _about_environment(diagnostic: Diagnostic, fault: Fault) -> Diagnostic:
    """Other tools fill in `${…}`; we do not, on purpose."""
    if not isinstance(fault.node, ScalarNode) or "${" not in str(fault.node.value):
        return diagnostic
    note = "`${…}` is not filled in: a plan must not depend on the shell; `--set` gives a value on the command line"
    return replace(diagnostic, notes=(*diagnostic.notes, note))
