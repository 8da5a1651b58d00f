"""Diagnostics as text, in the manner of a good compiler. Knows nothing of terminals: a caller may paint the pieces.

error[S104 unknown-field]: `hedas` is not a field of `model.attention` with kind `mla`
  --> examples/my.yaml:14:5
   |
14 |     hedas: 16
   |     ^^^^^
help: did you mean `heads`?
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .diagnostics import Diagnostic
from .source import SourceText, Span

Paint = Callable[[str, str], str]
"""(text, role) -> text; the roles are error, warning, message, gutter, label, help."""

MAX_COLUMNS = 100
TAB_COLUMNS = 4


def plain(text: str, role: str) -> str:
    return text


def render(diagnostic: Diagnostic, *, paint: Paint = plain) -> str:
    """One diagnostic, without a line break at the end."""
    kind = f"{diagnostic.severity}[{diagnostic.code} {diagnostic.slug}]"
    lines = [paint(kind, diagnostic.severity) + paint(f": {printable(diagnostic.message)}", "message")]
    marks = _marks(diagnostic)
    width = max((len(str(mark.last_line)) for mark in marks), default=1)
    lines += _excerpts(marks, width=width, severity=diagnostic.severity, paint=paint)
    lines += [paint(" " * width + " = ", "gutter") + printable(note) for note in diagnostic.notes]
    if diagnostic.help:
        lines.append(paint("help", "help") + f": {printable(diagnostic.help)}")
    return "\n".join(lines)


def render_all(diagnostics: Iterable[Diagnostic], *, paint: Paint = plain) -> str:
    """All of them, an empty line between."""
    return "\n\n".join(render(diagnostic, paint=paint) for diagnostic in diagnostics)


@dataclass(frozen=True)
class _Mark:
    """An underlined piece of one line."""

    span: Span
    text: str
    is_primary: bool

    @property
    def last_line(self) -> int:
        return self.span.line


def _marks(diagnostic: Diagnostic) -> list[_Mark]:
    """The primary mark first, then the labels whose place is known."""
    marks = []
    if diagnostic.span is not None:
        marks.append(_Mark(diagnostic.span, diagnostic.label, is_primary=True))
    for label in diagnostic.labels:
        if label.span is not None:
            marks.append(_Mark(label.span, label.text, is_primary=False))
    return marks


def _excerpts(marks: list[_Mark], *, width: int, severity: str, paint: Paint) -> list[str]:
    """The marked lines, one excerpt a file, the primary's file first."""
    sources: list[SourceText] = []
    for mark in marks:
        if mark.span.source not in sources:
            sources.append(mark.span.source)
    lines: list[str] = []
    for source in sources:
        own = [mark for mark in marks if mark.span.source is source]
        arrow = "-->" if source is marks[0].span.source else ":::"
        at = own[0].span
        lines.append(paint(" " * width + arrow, "gutter") + f" {printable(source.name)}:{at.line}:{at.column}")
        lines.append(paint(" " * (width + 1) + "|", "gutter"))
        previous: int | None = None
        for number in sorted({mark.span.line for mark in own}):
            if previous is not None and number > previous + 1:
                lines.append(paint("...", "gutter"))
            on_line = sorted((m for m in own if m.span.line == number), key=lambda m: (m.span.start, not m.is_primary))
            lines += _marked_line(source, number, on_line, width=width, severity=severity, paint=paint)
            previous = number
    return lines


def _marked_line(
    source: SourceText, number: int, marks: list[_Mark], *, width: int, severity: str, paint: Paint
) -> list[str]:
    """A line of the source and, for each mark on it, a line with carets (primary) or dashes."""
    text = source.line(number)
    begin = source.line_starts[number - 1]
    columns = _columns(text)
    shown = _display(text)
    primary = marks[0]
    left, right = _window(columns, primary.span.start - begin, primary.span.end - begin, room=MAX_COLUMNS - width - 3)
    lines = [paint(f"{number:>{width}} |", "gutter") + (" " + _cut(shown, left, right)).rstrip()]
    for mark in marks:
        first = columns[min(max(mark.span.start - begin, 0), len(text))]
        last = columns[min(max(mark.span.end - begin, 0), len(text))]
        if first < left or first > right:
            first = last = left if first < left else right
        last = max(min(last, right), first + 1)
        sign = ("^" if mark.is_primary else "-") * (last - first)
        note = f" {printable(mark.text)}" if mark.text else ""
        lines.append(
            paint(" " * (width + 1) + "|", "gutter")
            + " " * (1 + first - left)
            + paint(sign + note, severity if mark.is_primary else "label")
        )
    return lines


def _columns(text: str) -> list[int]:
    """Terminal column at which each character of a line starts, and, last, where the line ends."""
    columns = [0]
    for char in text:
        columns.append(columns[-1] + _width(char))
    return columns


def _width(char: str) -> int:
    if char == "\t":
        return TAB_COLUMNS
    if not char.isprintable():
        return len(_escape(char))
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _display(text: str) -> str:
    """As `_columns` counts it: tabs as spaces, what a terminal would obey as an escape."""
    return "".join(
        " " * TAB_COLUMNS if char == "\t" else char if char.isprintable() else _escape(char) for char in text
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def printable(text: str) -> str:
    """Text of a spec inside a message: what a terminal would obey becomes an escape."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _window(columns: list[int], start: int, end: int, *, room: int) -> tuple[int, int]:
    """Which terminal columns of a long line are shown, so that its marked piece is seen."""
    total = columns[-1]
    if total <= room:
        return 0, max(total, 1) + 1
    first = columns[min(max(start, 0), len(columns) - 1)]
    last = min(columns[min(max(end, 0), len(columns) - 1)], first + room // 2)
    left = max(0, min((first + last) // 2 - room // 2, total - room))
    return left, left + room


def _cut(shown: str, left: int, right: int) -> str:
    """The columns `left` to `right` of a displayed line, with an ellipsis where something is left out."""
    columns = _columns(shown)
    kept = [char for char, column in zip(shown, columns, strict=False) if left <= column < right]
    if left > 0 and kept:
        kept[0] = "…" + " " * (_width(kept[0]) - 1)
    if columns[-1] > right and kept:
        kept[-1] = "…"
    return "".join(kept)
