"""What a backend is: a function from views to the files of a program.

Decisions that every backend shares are in compiler/lower/, which makes the views; a backend chooses templates, and what
differs from device to device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..emit.program import File
    from ..lower.views import Views


class Backend(Protocol):
    def __call__(self, views: Views) -> tuple[File, ...]:
        """The files of a program, in the order of reading."""
        ...
