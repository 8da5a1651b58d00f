"""A folder appears whole or not at all: it is made beside its place and renamed into it.

One preparation at a time works in a parent folder (an advisory lock on that folder, which leaves no file behind), so
whatever a killed run left may be removed by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.progress import Progress
from .corpus import read_index
from .errors import DataError

try:
    import fcntl
except ImportError:  # not a POSIX system: two preparations of one corpus at once are not kept apart
    fcntl = None


@contextmanager
def locked(parent: Path, *, progress: Progress) -> Iterator[None]:
    """Only one process is inside for this folder; the others wait, and say so."""
    if fcntl is None:
        yield
        return
    handle = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait for another preparation", 0, None)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder to work in, which takes the place of `folder` when the block ends without an exception."""
    check_replaceable(folder)
    work, old = folder.with_name(f".{folder.name}.preparing"), folder.with_name(f".{folder.name}.old")
    for leftover in (work, old):  # of a killed run: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        if folder.exists():
            folder.rename(old)
        work.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Nothing but a corpus, or an empty folder, is ever replaced."""
    if not folder.exists() or (folder.is_dir() and (read_index(folder) is not None or not any(folder.iterdir()))):
        return
    raise DataError(
        f"{folder} exists and is not a prepared corpus, so it is not replaced",
        help="give another folder, or remove it if nothing in it is needed",
    )
