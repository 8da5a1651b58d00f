"""metrics.jsonl: a line a step, each a JSON object with `step`. Survives kill -9, and a resumed run has no step twice."""

from __future__ import annotations

import json
import math
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
            lines.append({key: math.nan if value is None else value for key, value in line.items()})
    return lines


def _text(line: dict[str, Any]) -> str:
    """JSON has no word for what is no number: null."""
    is_none = {key: isinstance(value, float) and not math.isfinite(value) for key, value in line.items()}
    return json.dumps({key: None if is_none[key] else value for key, value in line.items()}) + "\n"


class MetricsLog:
    """Appends lines to `path`, after dropping those beyond `last_step`, which a resumed run will write again."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        self.path = path
        self._open(last_step)

    def _open(self, last_step: int) -> None:
        self.lines = [line for line in read_metrics(self.path) if line["step"] <= last_step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = self.path.with_suffix(".tmp")
        kept.write_text("".join(_text(line) for line in self.lines), encoding="utf-8")
        os.replace(kept, self.path)  # noqa: PTH105 (one call for both systems)
        self._stream = self.path.open("a", encoding="utf-8")

    def append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._stream.write(_text(line))
        self._stream.flush()

    def go_back(self, last_step: int) -> None:
        """Drop the lines beyond `last_step`."""
        self._stream.close()
        self._open(last_step)

    def close(self) -> None:
        self._stream.close()
