"""What a user is told about their spec: a code, a headline, a place, and a help that was checked.

A `Diagnostic` may say where it belongs by `path` alone (the planner does not know about files); `SourceMap.locate`
gives it the span. `rendering.py` turns it into text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from .base import Path
from .codes import lookup
from .source import Span

Severity = Literal["error", "warning"]
Part = Literal["key", "value"]
"""Which half of `key: value` a caret covers."""


@dataclass(frozen=True)
class Label:
    """Another line that takes part, and what it contributes."""

    text: str
    path: Path | None = None
    part: Part = "value"
    span: Span | None = None


@dataclass(frozen=True)
class Edit:
    """One change of a spec: rename the key at `path`, set its value, remove it, or move it elsewhere."""

    action: Literal["rename", "set", "remove", "move"]
    path: Path
    to: Any = None


@dataclass(frozen=True)
class Fix:
    """A proposal: the words that follow `help:` and the edits they stand for. Printed only if the edits were tried and work."""

    help: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Diagnostic:
    """One fault, in the user's words. `message` is the headline: it stands alone and carries the two numbers that disagree."""

    code: str
    slug: str
    severity: Severity
    message: str
    path: Path | None = None
    part: Part = "value"
    span: Span | None = None
    label: str = ""
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
    fixes: tuple[Fix, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The form that `llmc plan --json` prints."""
        return {
            "code": f"LLMC-{self.code}",
            "severity": self.severity,
            "message": self.message,
            "file": self.span.file if self.span else None,
            "line": self.span.line if self.span else None,
            "column": self.span.column if self.span else None,
            "hint": self.help,
        }


def diagnose(
    code: str,
    message: str,
    *,
    path: Path | None = None,
    part: Part = "value",
    span: Span | None = None,
    label: str = "",
    labels: Iterable[Label] = (),
    notes: Iterable[str] = (),
    help: str | None = None,
    fixes: Iterable[Fix] = (),
) -> Diagnostic:
    """A diagnostic of the catalogue: `diagnose("S104", "`hedas` is not a field of …", path=("model", "hedas"))`.

    Slug and severity come from `codes/`. Give `help` only when it was checked; give `fixes` to have the loader check them.
    """
    entry = lookup(code)
    return Diagnostic(
        code=code,
        slug=entry.slug,
        severity=entry.severity,
        message=message,
        path=path,
        part=part,
        span=span,
        label=label,
        labels=tuple(labels),
        notes=tuple(notes),
        help=help,
        fixes=tuple(fixes),
    )


class SpecError(Exception):
    """A spec has faults: all that were found."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code} {d.message}" for d in self.diagnostics))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.diagnostics,)


def with_help(diagnostic: Diagnostic, help: str | None) -> Diagnostic:
    return replace(diagnostic, help=help, fixes=())
