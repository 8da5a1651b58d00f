"""`llmc import`: a published checkpoint becomes a spec and weights.

    SOURCE: config.json + *.safetensors, or MODEL.gguf
    DIR:    spec.yaml                        the model, spelled out, and a server for this machine
            weights/model.safetensors, …     under llmc's names
            weights/tokenizer.json, …        what a server needs beside them

Weights are converted by the same generated program that a build writes, in a process of its own: the command itself
imports no torch. What fails leaves nothing behind.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ..compiler.importing import imported_spec, write_converter
from ..spec.diagnostics import SpecError, diagnose
from ..spec.hf_config import UnsupportedConfig, stored_format
from ..spec.hf_folder import Unreadable, read_config
from ..spec.load import load_text
from .faults import FINE, SPEC_HAS_ERRORS, WRONG_USAGE
from .starting import MODELINE, SCHEMA, schema_text

GGUF_READER = "llmc.runtimes.pytorch.huggingface.gguf"
GGUF_MAGIC = b"GGUF"


def import_checkpoint(source: Path, out: Path | None) -> int:
    if not source.exists():
        return _refused(f"there is no {source}")
    name = _slug(source.stem if source.is_file() else source.resolve().name)
    folder = out or Path(name)
    for taken in (folder / "spec.yaml", folder / "weights"):
        if taken.exists():
            return _refused(f"{taken} exists; -o names another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".importing-", dir=folder) as work:
            status = _import(source, Path(work), folder=folder, name=name)
    except OSError as problem:
        return _refused(f"cannot write to {folder}: {problem.strerror or problem}")
    finally:
        with suppress(OSError):
            folder.rmdir()  # which succeeds only if nothing was written
    if status == FINE:
        print(f"next: llmc plan {folder / 'spec.yaml'}")
        print(f"      llmc run serve {folder / 'spec.yaml'} --weights {folder / 'weights'}")
    return status


def _import(source: Path, work: Path, *, folder: Path, name: str) -> int:
    """Everything is made in `work` first, on the same disk, and moved at the end."""
    if source.is_file():
        if not _is_gguf(source):
            return _refused(f"{source} is neither a folder with a config.json nor a GGUF file")
        status = _python("-m", GGUF_READER, source, work / "hf")
        if status != FINE:
            return status
        source = work / "hf"
    text = _spec_text(source, name=name)
    spec, _ = load_text(text, name=f"the spec of {name}")
    if not write_converter(spec, work / "converter"):
        print(
            "llmc import: checkpoints of this kind of model are not converted yet\n"
            f"help: a spec with `model: {{hf: {source}}}` can be planned",
            file=sys.stderr,
        )
        return SPEC_HAS_ERRORS
    status = _python(work / "converter/convert.py", "import", source, work / "weights")
    if status != FINE:
        return status
    if not (work / "weights/tokenizer.json").exists():
        print(
            f"llmc import: {source} has no tokenizer.json: a server will take and give token ids only", file=sys.stderr
        )
    (work / "weights").rename(folder / "weights")
    (folder / SCHEMA).parent.mkdir(exist_ok=True)
    (folder / SCHEMA).write_text(schema_text(), encoding="utf-8")
    (folder / "spec.yaml").write_text(MODELINE + text, encoding="utf-8")
    print(f"wrote {folder / 'spec.yaml'} and {folder / 'weights'}")
    return FINE


def _spec_text(source: Path, *, name: str) -> str:
    """The spec of a Hugging Face folder, or what is wrong with its config."""
    path = source / "config.json"
    try:
        config = read_config(path, shown=str(path))
        method = stored_format(config)
        if method is not None:
            raise UnsupportedConfig("quantization_config", f"weights stored in {method} are not read yet")
        return imported_spec(config, name=name)
    except Unreadable as problem:
        raise SpecError([diagnose("S207", str(problem))]) from problem
    except UnsupportedConfig as problem:
        raise SpecError([diagnose("S208", f"`{problem.field}` of {path}: {problem.why}")]) from problem


def _python(*command: object) -> int:
    """Run a Python program; what it prints of failures is for the user as it is."""
    return subprocess.run([sys.executable, *map(str, command)], check=False, stdout=subprocess.DEVNULL).returncode


def _is_gguf(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _refused(message: str) -> int:
    print(f"llmc import: {message}", file=sys.stderr)
    return WRONG_USAGE


def _slug(name: str) -> str:
    """A name that a spec accepts."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name.lower())
    return plain.strip("._-")[:64].strip("._-") or "imported"
