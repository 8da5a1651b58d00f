"""Where the standard library's own sources are: real text that every machine with Python has.

Left out: the tests (folders test, tests, idle_test), because Debian and slim images package them apart, so that the
corpus would depend on how Python was installed, and because they hold wrong syntax and bytes on purpose; packages that
were installed beside the library; and `_sysconfigdata*.py`, which describes one machine. The text still differs from
one Python version to the next: the fingerprint of a corpus notices.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .documents import SourceFile
from .errors import DataError

LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
FEWEST_FILES = 100  # 3.11 has about 700 without tests; far fewer means that the sources are not installed


def stdlib_files() -> list[SourceFile]:
    """The library's modules, sorted by their path in it."""
    folder = Path(sysconfig.get_path("stdlib"))
    kept = sorted(path.relative_to(folder) for path in _modules(folder))
    if len(kept) < FEWEST_FILES:
        raise DataError(
            f"Python {sys.version_info.major}.{sys.version_info.minor} has {len(kept)} source files of its standard "
            f"library in {folder}, fewer than {FEWEST_FILES}",
            help="use a Python with its library as .py files, or another source",
        )
    return [SourceFile(folder / relative, f"python-stdlib/{relative.as_posix()}") for relative in kept]


def _modules(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from () if path.name in LEFT_OUT_FOLDERS else _modules(path)
        elif path.suffix == ".py" and not path.name.startswith("_sysconfigdata"):
            yield path
