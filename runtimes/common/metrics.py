"""metrics.jsonl: a line a step, each a JSON object with `step`. Survives kill -9, and a resumed run has no step twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; one that was torn by a crash ends the list."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").split("\n"):
            try:
                line = json.loads(text)
            except ValueError:
                break
            lines.append(line)
    return lines


class MetricsLog:
    """Appends lines to `path`, after dropping those beyond `last_step`, which a resumed run will write again."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        self.lines = [line for line in read_metrics(path) if line["step"] <= last_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.with_suffix(".tmp")
        kept.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        os.replace(kept, path)  # noqa: PTH105 (one call for both systems)
        self._stream = path.open("a", encoding="utf-8")

    def append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()
