"""Files to documents: plain text, JSON lines, Parquet; each fault either a `DataError` or counted as skipped.

What stops the preparation is what the user must decide about (a file that cannot be opened, a field that is not
there). What does not is a document that is simply not text: bad UTF-8 and NUL characters are counted, named in the
report and left out, since repairing them would teach the model the repair.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError

ROW_FORMATS = (".jsonl", ".ndjson", ".parquet")

Skip = Callable[[str, str], None]  # (reason, document name): counts a document that is left out


@dataclass(frozen=True)
class SourceFile:
    path: Path
    name: str  # relative, with forward slashes: the same on every machine

    @property
    def format(self) -> str:
        """`.jsonl`, `.parquet`, …; any other suffix means plain text."""
        name = self.name.removesuffix(".gz")
        return next((format for format in ROW_FORMATS if name.endswith(format)), "text")

    @property
    def is_compressed(self) -> bool:
        return self.name.endswith((".gz", ".parquet"))


@dataclass(frozen=True)
class Document:
    name: str
    text: str
    num_bytes: int  # read for it, for progress


def read_documents(file: SourceFile, *, field: str | None, skip: Skip) -> Iterator[Document]:
    """The documents of one file, in order."""
    if file.format == "text" and field is not None:
        raise DataError(
            f"`text: {field}` was given, but {file.name} is plain text without fields",
            help="leave `text` away for plain text, or narrow the glob to .jsonl files",
        )
    try:
        if file.format == "text":
            yield from _read_text(file, skip=skip)
        elif file.format == ".parquet":
            yield from _read_parquet(file, field=field or "text", skip=skip)
        else:
            yield from _read_json_lines(file, field=field or "text", skip=skip)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from error


def unreadable(file: SourceFile, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"cannot read {file.path}: {reason}", help="check the file and its permissions, or leave it out")


def _open(file: SourceFile):
    return gzip.open(file.path, "rb") if file.name.endswith(".gz") else file.path.open("rb")


def _read_text(file: SourceFile, *, skip: Skip) -> Iterator[Document]:
    with _open(file) as stream:
        raw = stream.read()
    document = decode(raw, name=file.name, skip=skip)
    if document is not None:
        yield document


def decode(raw: bytes, *, name: str, skip: Skip) -> Document | None:
    """UTF-8 with or without a byte order mark; None, and counted, where it is not."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        skip("bad-utf8", name)
        return None
    return Document(name, text, len(raw))


def _read_json_lines(file: SourceFile, *, field: str, skip: Skip) -> Iterator[Document]:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            name = f"{file.name}:{number}"
            decoded = decode(line, name=name, skip=skip) if line.strip() else None
            if decoded is None:
                continue
            try:
                row = json.loads(decoded.text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{name} is not JSON: {error}", help="fix or remove that line") from error
            yield Document(name, text_field(row, field, name=name), len(line))


def text_field(row: object, field: str, *, name: str) -> str:
    """The text of one row, or a `DataError` that names the fields there are."""
    if not isinstance(row, dict):
        raise DataError(
            f"{name} is {_kind(row)}, not an object with the field `{field}`", help=f'write {{"{field}": "…"}}'
        )
    if field not in row:
        known = ", ".join(f"`{key}`" for key in row) or "no field"
        raise DataError(
            f"{name} has no field `{field}`; it has {known}",
            help="name the field that holds the text: `text: NAME` beside `path`",
        )
    if not isinstance(row[field], str):
        raise DataError(
            f"the field `{field}` of {name} is {_kind(row[field])}, not text",
            help="name the field that holds the text, or remove that row",
        )
    return row[field]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _read_parquet(file: SourceFile, *, field: str, skip: Skip) -> Iterator[Document]:
    try:
        from pyarrow import ArrowInvalid  # pyright: ignore[reportMissingImports]  # not a dependency
        from pyarrow.parquet import ParquetFile  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{file.name} is Parquet, and pyarrow is not installed",
            help="pip install pyarrow, or turn the file into .jsonl",
        ) from error
    try:
        with ParquetFile(file.path) as table:
            if field not in table.schema_arrow.names:
                text_field(dict.fromkeys(table.schema_arrow.names), field, name=file.name)
            number = 0
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    name = f"{file.name}:{number}"
                    text = text_field({field: value}, field, name=name)
                    yield Document(name, text, len(text))
    except ArrowInvalid as error:
        raise unreadable(file, error) from error
