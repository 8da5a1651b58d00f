"""torch-xla, for TPUs: model.py from the templates of PyTorch, train.py and parallel.py of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..emit.program import File

if TYPE_CHECKING:
    from ..lower.views import Views


def files(views: Views) -> tuple[File, ...]:
    """model.py, parallel.py, train.py; data.py where the spec names text."""
    names = {"t": views.train, "s": views.spmd}
    found = [
        File("model.py", "pytorch/model.py.j2", {"m": views.model}, key="model"),
        File("parallel.py", "xla/parallel.py.j2", names, key="parallel"),
        File("train.py", "xla/train.py.j2", names, key="train"),
    ]
    if views.spmd is not None and views.spmd.topology:
        found.append(File("tpu.json", "xla/tpu.json.j2", names, key="hardware"))
    if views.data is not None:
        found.append(File("data.py", "pytorch/data.py.j2", {"d": views.data}, key="data"))
    if views.convert is not None:
        found.append(File("convert.py", "pytorch/convert.py.j2", {"c": views.convert}, key="model"))
        found.append(File("hf_config.json", "pytorch/hf_config.json.j2", {"c": views.convert}, key="model"))
    found.append(File("README.md", "pytorch/README.md.j2", {"r": views.readme}, key="name"))
    found.append(File("pyproject.toml", "pytorch/pyproject.toml.j2", {}, key="name"))
    return tuple(found)
