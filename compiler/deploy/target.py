"""What a deploy target is: a function from the facts of a plan to launch files.

To add one: a class in spec/deploy.py, `compiler/deploy/<target>.py`, `templates/deploy/<target>/`, a line in table.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..emit.program import File

if TYPE_CHECKING:
    from .facts import Server, TrainJob

FOLDER = "launch"
"""Where launch files lie in a program."""


@dataclass(frozen=True)
class Files:
    """What a target adds to a program: files of templates, and finished texts."""

    files: tuple[File, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Files) -> Files:
        return Files((*self.files, *other.files), {**self.texts, **other.texts})


class Target(Protocol):
    def __call__(self, deploy: Any, train: TrainJob | None, serve: Server | None) -> Files:
        """The launch files, in the order of reading. `train` and `serve` are None where the spec has no such section."""
        ...


def launch_file(name: str, template: str, key: str = "deploy", **names: Any) -> File:
    """`launch/<name>` from `templates/deploy/<template>`."""
    return File(f"{FOLDER}/{name}", f"deploy/{template}", names, key=key)
