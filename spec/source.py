"""Text that diagnostics point into: a named source and the span of a piece of it."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, eq=False)
class SourceText:
    """A file, or the text of an option such as `--set`."""

    name: str
    text: str
    folder: Path = field(default_factory=Path)
    """Where the files that it names are looked for."""

    @cached_property
    def line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_BREAK.finditer(self.text))]

    @property
    def num_lines(self) -> int:
        return len(self.line_starts)

    def line_of(self, offset: int) -> int:
        """Number of the line, counted from 1, that holds the character at `offset`."""
        return bisect_right(self.line_starts, offset)

    def line(self, number: int) -> str:
        """The text of line `number`, counted from 1, without its line break."""
        start = self.line_starts[number - 1]
        end = self.line_starts[number] if number < self.num_lines else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def __repr__(self) -> str:
        return f"SourceText({self.name!r})"


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a source. Lines and columns count from 1, columns in characters."""

    source: SourceText = field(compare=False)
    start: int
    end: int

    @property
    def file(self) -> str:
        return self.source.name

    @property
    def line(self) -> int:
        return self.source.line_of(self.start)

    @property
    def column(self) -> int:
        return self.start - self.source.line_starts[self.line - 1] + 1

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]
