"""What a code's own examples really yield: `llmc explain`, the documentation and the tests show it from here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..diagnostics import Diagnostic
from .entry import Code


def failing_diagnostics(code: type[Code]) -> tuple[Diagnostic, ...]:
    """Everything that loading the failing spec reports."""
    return _load(code, code.failing_spec().encode(code.encoding), code.failing_set)


def fixed_diagnostics(code: type[Code]) -> tuple[Diagnostic, ...]:
    return _load(code, code.fixed_spec().encode(), code.fixed_set)


def _load(code: type[Code], text: bytes, overrides: tuple[str, ...]) -> tuple[Diagnostic, ...]:
    from ..load import read_spec

    with tempfile.TemporaryDirectory() as folder:
        for name, content in code.files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        spec = Path(folder, "spec.yaml")
        spec.write_bytes(text)
        return read_spec(spec, overrides, name="spec.yaml")[2]
