"""Kernels as a build has them: templates rendered for small sizes, compiled, imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from llmc.compiler.emit.render import render
from llmc.compiler.kernels.kernel import Kernel
from llmc.runtimes.common.modules import module_of


@dataclass
class Workshop:
    """Makes kernels, in a folder of their own each."""

    folder: Path
    count: int = 0

    def make(self, kernel: Kernel, *, edit: Callable[[str], str] | None = None) -> ModuleType:
        """The Python module of a kernel; `edit` changes its C++, Triton or Pallas first."""
        self.count += 1
        folder = self.folder / str(self.count)
        for path, template in kernel.files():
            text = render(template, {"k": kernel}).text
            if edit is not None and path.endswith((".cpp", "_gpu.py", "_tpu.py")):
                text = edit(text)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        file = folder / "kernels" / f"{kernel.name}.py"
        return module_of(file)
