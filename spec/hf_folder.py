"""Reading the config.json of a Hugging Face folder: a file that anyone may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_CONFIG_BYTES = 1 << 20


class Unreadable(Exception):
    """A file that should hold a configuration does not."""


def read_config(path: Path, *, shown: str) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise Unreadable(f"there is no file {shown}")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise Unreadable(f"{shown} has more than {MAX_CONFIG_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise Unreadable(f"{shown} cannot be read: {problem}") from problem
    if not isinstance(config, dict):
        raise Unreadable(f"{shown} holds no mapping")
    return config
