"""manifest.json: for each block of each generated file, the line of the spec that caused it, and a checksum of the file.

    {"llmc_manifest": 1, "files": {"model.py": {"sha256": "…", "blocks": [
        {"lines": [20, 32], "key": "model.position", "at": "tiny-code.yaml:8"}, …]}}}

`at` is the place of the key, or of the nearest one above it that somebody wrote: a preset's fields point at `preset:`.
Files of the spec are named relative to its folder, so that a manifest does not depend on where things lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .paths import relative

if TYPE_CHECKING:
    from ...spec.base import Path as KeyPath
    from ...spec.nodes import SourceMap
    from .render import Rendered

MANIFEST = "manifest.json"
VERSION = 1

Locate = Callable[[str], str | None]
"""`model.position` -> `tiny-code.yaml:8`."""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def locator(sources: SourceMap, *, spec_dir: Path) -> Locate:
    """Finds the lines of keys in the files that a spec was read from."""

    def locate(key: str) -> str | None:
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        if path[0] == "train" and len(path) > 1 and isinstance(path[1], str):
            path = ("train", 0, *path[1:])  # a single stage may be written without a list
        site = sources.site(path)
        if site is None:
            return None
        return f"{relative(site.key.file, start=spec_dir)}:{site.key.line}"

    return locate


def describe(rendered: Rendered, *, key: str, locate: Locate) -> dict[str, Any]:
    """A file's entry: the block of the whole file first, then those inside it."""
    num_lines = rendered.text.count("\n")
    blocks = [(1, num_lines, key), *((block.first, block.last, block.key) for block in rendered.blocks)]
    return {
        "sha256": sha256(rendered.text),
        "blocks": [{"lines": [first, last], "key": name, "at": locate(name)} for first, last, name in blocks],
    }
