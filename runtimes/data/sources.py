"""Recipe sources opened: what they read, and a digest of it for the fingerprint."""

from __future__ import annotations

import glob
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .documents import Document, Skip, SourceFile, read_documents, text_field, unreadable
from .errors import DataError
from .recipe import EntryPoint, PathSource, PythonStdlib, Source
from .stdlib import stdlib_files

HASH_CHUNK_BYTES = 1 << 20


class OpenSource(Protocol):
    """A source that is ready to be read."""

    @property
    def num_bytes(self) -> int | None:
        """What `Document.num_bytes` will sum to, None where nobody knows."""
        ...

    @property
    def num_bytes_to_hash(self) -> int: ...

    def digest(self, advance: Callable[[int], None]) -> str:
        """A hash that changes when the documents would; `advance` is told the bytes hashed."""
        ...

    def documents(self, skip: Skip) -> Iterator[Document]: ...


def open_source(source: Source, *, root: Path, leave_out: Path | None = None) -> OpenSource:
    """`leave_out` is a folder whose files a glob does not see: the corpus that is being written."""
    match source:
        case PathSource():
            return Files(tuple(_glob(source, root=root, leave_out=leave_out)), field=source.text)
        case PythonStdlib():
            return Files(tuple(stdlib_files()), field=None)
        case EntryPoint():
            return Function(source, root=root)


def _glob(source: PathSource, *, root: Path, leave_out: Path | None) -> list[SourceFile]:
    found = glob.glob(source.path, root_dir=root, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute one
    names = sorted({Path(name).as_posix() for name in found})
    files = [
        SourceFile(root / name, name)
        for name in names
        if not (root / name).is_dir() and (leave_out is None or not (root / name).resolve().is_relative_to(leave_out))
    ]
    if files:
        return files
    if names:
        raise DataError(f"`{source.path}` names a folder, not files", help=f"write `{names[0]}/**/*` for what is in it")
    raise DataError(
        f"no file matches `{source.path}` in {root.resolve()}",
        help="check the spelling; `**` reaches into folders, and the path is relative to that folder",
    )


@dataclass(frozen=True)
class Files:
    """Files in the order of their names."""

    files: tuple[SourceFile, ...]
    field: str | None

    @property
    def num_bytes(self) -> int | None:
        return None if any(file.is_compressed for file in self.files) else self.num_bytes_to_hash

    @property
    def num_bytes_to_hash(self) -> int:
        try:
            return sum(file.path.stat().st_size for file in self.files)
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}", help="check the file") from error

    def digest(self, advance: Callable[[int], None]) -> str:
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{len(file.name)}:{file.name}:".encode("utf-8", "surrogateescape"))
            total.update(_file_digest(file, advance))
        return total.hexdigest()

    def documents(self, skip: Skip) -> Iterator[Document]:
        for file in self.files:
            yield from read_documents(file, field=self.field, skip=skip)


def _file_digest(file: SourceFile, advance: Callable[[int], None]) -> bytes:
    digest = hashlib.sha256()
    try:
        with file.path.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        raise unreadable(file, error) from error
    return digest.digest()


@dataclass(frozen=True)
class Function:
    """A user's function; its module is looked for beside the spec first."""

    source: EntryPoint
    root: Path

    num_bytes = None
    num_bytes_to_hash = 0

    @property
    def _module_name(self) -> str:
        return self.source.call.partition(":")[0]

    def digest(self, advance: Callable[[int], None]) -> str:
        with _import_from(self.root), _reported_as(self.source, "cannot be found"):
            found = importlib.util.find_spec(self._module_name)
        if found is None:
            raise DataError(
                f"there is no module `{self._module_name}` for the entry point `{self.source.call}`",
                help=f"put {self._module_name.partition('.')[0]}.py in {self.root.resolve()}, or install its package",
            )
        has_source = found.has_location and found.origin is not None
        code = Path(found.origin).read_bytes() if has_source and found.origin else b""
        return hashlib.sha256(code).hexdigest()

    def documents(self, skip: Skip) -> Iterator[Document]:
        for number, item in enumerate(self._call(), start=1):
            name = f"{self.source.call}:{number}"
            text = item if isinstance(item, str) else text_field(item, self.source.text, name=name)
            yield Document(name, text, len(text))

    def _call(self) -> Iterator[object]:
        """What the function yields."""
        with _import_from(self.root), _reported_as(self.source, "failed"):
            target = importlib.import_module(self._module_name)
            for name in self.source.call.partition(":")[2].split("."):
                target = getattr(target, name)
            yield from target()  # pyright: ignore[reportCallIssue]  # a function, by the recipe


@contextmanager
def _reported_as(source: EntryPoint, fault: str) -> Iterator[None]:
    """An exception of the user's code becomes a `DataError`, with its own traceback as the cause."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the entry point `{source.call}` {fault}: {type(error).__name__}: {error}",
            help="it has to be a function without arguments that yields documents",
        ) from error


@contextmanager
def _import_from(folder: Path) -> Iterator[None]:
    """Modules in `folder` can be imported meanwhile."""
    path = str(folder.resolve())
    sys.path.insert(0, path)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(path)
