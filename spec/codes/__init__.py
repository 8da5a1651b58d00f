"""The catalogue of codes. A code is a class whose docstring is its long explanation, with a failing and a fixed spec.

To add one, write a class in the file of its stage and nothing else: the tables are read off the classes.
The letter is the stage (Spec, Model, Plan, Lower, Emit, Deploy); severity is separate. Number and slug stay for good.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from .entry import Code

STAGES = {
    "S": ("the spec as text and as a language", ("source", "language", "recipe", "sections")),
    "M": ("the model and its numbers", ("model",)),
    "P": ("planning", ("plan",)),
    "L": ("lowering", ("lower",)),
    "E": ("emitting files", ("emit",)),
    "D": ("deployment", ("deploy",)),
}
"""Letter -> what the stage is, and the modules of this folder that hold its codes."""


@cache
def codes_of(letter: str) -> dict[str, type[Code]]:
    """All codes of a stage, by number."""
    found: dict[str, type[Code]] = {}
    for module in STAGES[letter][1]:
        for value in vars(import_module(f".{module}", __name__)).values():
            if isinstance(value, type) and issubclass(value, Code) and value is not Code:
                if value.id in found and found[value.id] is not value:
                    raise ValueError(f"two classes claim the code {value.id}")
                found[value.id] = value
    return dict(sorted(found.items()))


def all_codes() -> dict[str, type[Code]]:
    return {id: code for letter in STAGES for id, code in codes_of(letter).items()}


def lookup(id: str) -> type[Code]:
    """The class of `S104`. KeyError if there is none: a code is written into the catalogue before it is used."""
    return codes_of(id[0])[id]
