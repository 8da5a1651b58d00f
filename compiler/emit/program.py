"""A program before it is text: which file comes from which template, with which views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class File:
    """A file of the program: `templates/<template>` rendered with `names`."""

    path: str
    """Inside the build folder, with forward slashes."""
    template: str
    names: Mapping[str, Any]
    key: str
    """The section of the spec that the file as a whole exists for."""


@dataclass(frozen=True)
class Program:
    """What a build folder will hold, in the order of writing."""

    name: str
    files: tuple[File, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    """Files that are not made from a template: plan.json."""
