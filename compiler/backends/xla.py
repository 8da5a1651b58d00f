"""torch-xla, for TPUs: model.py from the templates of PyTorch, train.py and parallel.py of its own, and what runs the model in serve.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..emit.program import File

if TYPE_CHECKING:
    from ..lower.views import Views


def files(views: Views) -> tuple[File, ...]:
    """model.py; parallel.py and train.py, with data.py where the spec names text, or serve.py, with parallel.py for several chips
    and router.py for several replicas."""
    names = {"t": views.train, "s": views.spmd}
    found = [File("model.py", "pytorch/model.py.j2", {"m": views.model}, key="model")]
    if views.spmd is not None and views.train is None:
        found.append(File("parallel.py", "xla/parallel_served.py.j2", names, key="serve"))
    elif views.spmd is not None:
        found.append(File("parallel.py", "xla/parallel.py.j2", names, key="parallel"))
        found.append(File("train.py", "xla/train.py.j2", names, key="train"))
        if views.spmd.topology:
            found.append(File("tpu.json", "xla/tpu.json.j2", names, key="hardware"))
    if views.data is not None:
        found.append(File("data.py", "pytorch/data.py.j2", {"d": views.data}, key="data"))
    if views.serve is not None:
        found.append(File("serve.py", "pytorch/serve.py.j2", {"s": views.serve}, key="serve"))
        if views.serve.replicas > 1:
            found.append(File("router.py", "pytorch/router.py.j2", {"s": views.serve}, key="serve"))
        found.append(File("surface.json", "pytorch/surface.json.j2", {"s": views.serve}, key="serve"))
    key = "serve" if views.train is None else "train"
    for kernel in views.kernels:
        found.extend(File(path, template, {"k": kernel}, key=key) for path, template in kernel.files())
    if views.convert is not None:
        found.append(File("convert.py", "pytorch/convert.py.j2", {"c": views.convert}, key="model"))
        found.append(File("hf_config.json", "pytorch/hf_config.json.j2", {"c": views.convert}, key="model"))
    found.append(File("README.md", "pytorch/README.md.j2", {"r": views.readme}, key="name"))
    found.append(File("pyproject.toml", "pytorch/pyproject.toml.j2", {}, key="name"))
    return tuple(found)
