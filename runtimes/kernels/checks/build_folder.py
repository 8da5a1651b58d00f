"""The kernels of a build folder: what `kernels/kernels.json` says of them, and their modules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ...common import modules

LISTED = "kernels/kernels.json"


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / LISTED).read_text(encoding="utf-8"))


def module_of(folder: Path, name: str) -> ModuleType:
    """`kernels/<name>.py` of a build, by its file."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return modules.module_of(folder / "kernels" / f"{name}.py")
