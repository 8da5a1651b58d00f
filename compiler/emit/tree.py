"""A rendered program on disk: written whole, compared, and never over somebody's edits.

Every file is written beside its place first and then renamed; only when all are on disk does the first rename happen.
A file that differs both from what the last build wrote and from what this one would write was edited by hand: generated
code is there to be edited, so a build stops rather than overwrite it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .literals import json_text
from .manifest import MANIFEST, VERSION, Locate, describe, sha256
from .program import Program
from .render import render


@dataclass(frozen=True)
class Tree:
    """Path -> text of every file of a build, manifest.json last."""

    texts: Mapping[str, str]


def render_program(program: Program, *, locate: Locate) -> Tree:
    """All files of a program. Pure: same program, same bytes."""
    texts: dict[str, str] = {}
    entries = {}
    for file in program.files:
        rendered = render(file.template, file.names)
        texts[file.path] = rendered.text
        entries[file.path] = describe(rendered, key=file.key, locate=locate)
    for path, text in program.texts.items():
        texts[path] = text
        entries[path] = {"sha256": sha256(text), "blocks": []}
    texts[MANIFEST] = json_text({"llmc_manifest": VERSION, "files": entries})
    return Tree(texts)


def differing(tree: Tree, out_dir: Path) -> tuple[str, ...]:
    """Files of a build that are missing, or not what `tree` says: what `llmc build --check` reports."""
    return tuple(path for path, text in tree.texts.items() if _read(out_dir / path) != text)


def edited(tree: Tree, out_dir: Path) -> tuple[str, ...]:
    """Files in `out_dir` that neither the last build wrote nor this one would."""
    written = _written_sums(out_dir)
    found = []
    for path in sorted({*tree.texts, *written} - {MANIFEST}):
        text = _read(out_dir / path)
        if text is not None and text != tree.texts.get(path) and sha256(text) != written.get(path):
            found.append(path)
    return tuple(found)


def write_tree(tree: Tree, out_dir: Path) -> tuple[str, ...]:
    """Write what differs, and remove what the last build wrote and this one does not have; the paths written."""
    changed = differing(tree, out_dir)
    obsolete = [path for path in _written_sums(out_dir) if path not in tree.texts]
    beside = {path: (out_dir / path).with_name(f".{Path(path).name}.{os.getpid()}") for path in changed}
    for path, work in beside.items():
        work.parent.mkdir(parents=True, exist_ok=True)
        work.write_text(tree.texts[path], encoding="utf-8", newline="\n")
    for path, work in beside.items():
        work.replace(out_dir / path)
    for path in obsolete:
        (out_dir / path).unlink(missing_ok=True)
    return changed


def _written_sums(out_dir: Path) -> dict[str, str]:
    """Path -> sha256 of what the last build wrote, by its manifest; nothing where there is none."""
    try:
        files = json.loads((out_dir / MANIFEST).read_text(encoding="utf-8"))["files"]
        sums = {path: entry["sha256"] for path, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {path: sums[path] for path in sums if _is_inside(path)}


def _is_inside(path: str) -> bool:
    """A manifest may have been tampered with: its paths must not lead out of the build."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
