"""`llmc run` and `llmc import`: build if need be, then hand over to the generated program."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..compiler.pipeline import build
from .compiling import edits_by_hand
from .faults import FINE, WRONG_USAGE
from .printing import print_diagnostics

PROGRAMS = {"train": "train.py", "serve": "serve.py", "generate": "serve.py"}
MANIFEST = "manifest.json"


def run_program(command: str, target: Path, overrides: Sequence[str], args: Sequence[str]) -> int:
    """Replace this process by the program: signals and exit status are its own."""
    if target.is_dir():
        folder, status = _built(target, command, overrides)
    else:
        folder, status = _build(target, command, overrides)
    if folder is None:
        return status
    script = folder / PROGRAMS[command]
    if not script.exists():
        section = "train" if command == "train" else "serve"
        print(f"llmc run {command}: there is no {script}: the spec has no `{section}` section", file=sys.stderr)
        return WRONG_USAGE
    return _become(script, _arguments(command, args))


def _become(script: Path, args: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(script), *args])


def _arguments(command: str, args: Sequence[str]) -> list[str]:
    """`generate` is the server's program with a prompt in place of a port."""
    if command != "generate" or any(arg.split("=")[0] in ("--prompt", "--generate", "-h", "--help") for arg in args):
        return list(args)
    return ["--generate", sys.stdin.read().rstrip("\n") if not sys.stdin.isatty() else input("prompt: "), *args]


def _built(folder: Path, command: str, overrides: Sequence[str]) -> tuple[Path | None, int]:
    if overrides:
        print(f"llmc run {command}: --set changes a spec, and {folder} is built already", file=sys.stderr)
        return None, WRONG_USAGE
    if not (folder / MANIFEST).exists():
        print(f"llmc run {command}: {folder} has no {MANIFEST}: llmc did not build it", file=sys.stderr)
        return None, WRONG_USAGE
    return folder, FINE


def _build(spec: Path, command: str, overrides: Sequence[str]) -> tuple[Path | None, int]:
    """Bring build/NAME up to date. Files that were edited by hand are run as they are, and that is said."""
    from ..compiler.emit.tree import write_tree

    result = build(spec, None, overrides)
    print_diagnostics(result.diagnostics)
    if result.tree is None:
        return None, result.entry.exit_code
    by_hand = edits_by_hand(result)
    if by_hand:
        print(f"llmc run {command}: not rebuilt, edited by hand: {', '.join(by_hand)}", file=sys.stderr)
    else:
        write_tree(result.tree, result.out_dir)
    return result.out_dir, FINE


def import_checkpoint(source: Path, out: Path | None) -> int:
    """A published checkpoint -> OUT/spec.yaml, OUT/program/ and OUT/weights/."""
    if not source.exists():
        print(f"llmc import: there is no {source}", file=sys.stderr)
        return WRONG_USAGE
    name = _slug(source.stem if source.is_file() else source.resolve().name)
    folder = out or Path(name)
    if (folder / "spec.yaml").exists():
        print(f"llmc import: {folder / 'spec.yaml'} exists; -o names another folder", file=sys.stderr)
        return WRONG_USAGE
    if source.is_dir():
        return _import_folder(source, folder, name=name)
    with tempfile.TemporaryDirectory() as work:
        reader = [sys.executable, "-m", "llmc.runtimes.pytorch.huggingface.gguf", str(source), work]
        status = subprocess.run(reader, check=False).returncode
        return status or _import_folder(Path(work), folder, name=name)


def _import_folder(source: Path, folder: Path, *, name: str) -> int:
    """A Hugging Face folder: its config becomes a spec, its weights those of the program built from that."""
    from ..compiler.emit.tree import write_tree
    from ..spec.diagnostics import SpecError
    from .importing import spec_text

    text, fault = spec_text(source, name=name)
    if fault is not None:
        raise SpecError([fault])
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.yaml"
    spec.write_text(text, encoding="utf-8")
    result = build(spec, folder / "program")
    print_diagnostics(result.diagnostics)
    if result.tree is None:
        return result.entry.exit_code
    write_tree(result.tree, result.out_dir)
    convert = result.out_dir / "convert.py"
    if not convert.exists():
        print(
            "llmc import: the spec is written; checkpoints of this kind of model are not converted yet", file=sys.stderr
        )
        return WRONG_USAGE
    command = [sys.executable, str(convert), "import", str(source), str(folder / "weights")]
    status = subprocess.run(command, check=False).returncode
    if status == FINE:
        print(f"next: llmc run serve {spec} --weights {folder / 'weights'}")
    return status


def _slug(name: str) -> str:
    """A name that a spec accepts."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name.lower())
    return plain.strip("._-")[:64].strip("._-") or "imported"
