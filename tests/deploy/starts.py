"""What the stand-in program wrote: which ranks started, with what, and how far the run came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def starts(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "starts.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
