"""Loaded by every rank before its program (PYTHONPATH): writes down which rank this is, and every sample that it takes.

Lines of $CHAOS_RECORD/rank-N.jsonl: {"pid": …} at a start, {"sample": first, "windows": […]} for each batch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

if "CHAOS_RECORD" in os.environ and "LOCAL_RANK" in os.environ:
    from llmc.runtimes.data.loader import TokenLoader

    RECORD = Path(os.environ["CHAOS_RECORD"], f"rank-{os.environ['RANK']}.jsonl")

    def write(line: dict[str, Any]) -> None:
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    taken = TokenLoader.__next__

    def take(loader: TokenLoader) -> Any:
        first = loader.samples + loader.rank * loader.batch
        write({"sample": first, "windows": loader.windows_at(first, count=loader.batch).tolist()})
        return taken(loader)

    TokenLoader.__next__ = take  # type: ignore[method-assign]
    write({"pid": os.getpid()})
