"""What a page consists of: sections of charts, tables, facts and words."""

from __future__ import annotations

from dataclasses import dataclass, field

from .shapes import Chart


@dataclass(frozen=True)
class Facts:
    """Figures with their names, large."""

    rows: tuple[tuple[str, str], ...]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Words:
    text: str
    kind: str = field(default="words", init=False)


@dataclass(frozen=True)
class TableOf:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kind: str = field(default="table", init=False)


Part = Chart | Facts | Words | TableOf


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """Everything that the template writes."""

    title: str
    subtitle: str
    file: str
    sections: tuple[Section, ...]
    diagnostics: tuple[tuple[str, str], ...]
    """(code, message)"""
    version: str
