"""Text for a terminal: diagnostics in colour where there is one, plain where the output is piped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from ..spec.diagnostics import Diagnostic
from ..spec.rendering import Paint, plain, render_all

_ANSI = {"error": "1;31", "warning": "1;33", "message": "1", "gutter": "1;34", "label": "1;34", "help": "1;36"}


def print_diagnostics(diagnostics: Iterable[Diagnostic], *, file: TextIO | None = None) -> None:
    """All diagnostics, and a last line that counts them."""
    stream = sys.stderr if file is None else file
    found = list(diagnostics)
    if not found:
        return
    print(render_all(found, paint=paint_for(stream)), file=stream)
    summary = count(found)
    if len(found) > 1:
        print(f"\n{summary}", file=stream)
    errors = sorted({diagnostic.code for diagnostic in found if diagnostic.severity == "error"})
    if errors:
        print(f"\n`llmc explain {errors[0]}` tells more.", file=stream)


def count(diagnostics: Iterable[Diagnostic]) -> str:
    """2 errors, 1 warning"""
    found = [diagnostic.severity for diagnostic in diagnostics]
    parts = [(found.count(kind), kind) for kind in ("error", "warning")]
    return ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for number, kind in parts if number)


def paint_for(stream: TextIO) -> Paint:
    """Colours for a terminal that wants them (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return plain
    return lambda text, role: f"\x1b[{_ANSI[role]}m{text}\x1b[0m" if role in _ANSI and text.strip() else text
