"""Plain PyTorch, for CPUs and single GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..emit.program import File

if TYPE_CHECKING:
    from ..lower.views import Views


def files(views: Views) -> tuple[File, ...]:
    """model.py always; train.py and data.py, serve.py (with router.py where there are several), and the kernels, as the spec
    asks for them; convert.py where Hugging Face has the same model."""
    found = [File("model.py", "pytorch/model.py.j2", {"m": views.model}, key="model")]
    if views.parallel is not None:
        names = {"t": views.train, "p": views.parallel}
        found.append(File("parallel.py", "pytorch/parallel/parallel.py.j2", names, key="parallel"))
        found.append(File("train.py", "pytorch/parallel/train.py.j2", names, key="train"))
    elif views.train is not None:
        found.append(File("train.py", "pytorch/train.py.j2", {"t": views.train}, key="train"))
    if views.data is not None:
        found.append(File("data.py", "pytorch/data.py.j2", {"d": views.data}, key="data"))
    if views.serve is not None:
        found.append(File("serve.py", "pytorch/serve.py.j2", {"s": views.serve}, key="serve"))
        if views.serve.replicas > 1:
            found.append(File("router.py", "pytorch/router.py.j2", {"s": views.serve}, key="serve"))
        found.append(File("surface.json", "pytorch/surface.json.j2", {"s": views.serve}, key="serve"))
    key = "serve.weights" if views.train is None else "train"
    for kernel in views.kernels:
        found.extend(File(path, template, {"k": kernel}, key=key) for path, template in kernel.files())
    if views.convert is not None:
        found.append(File("convert.py", "pytorch/convert.py.j2", {"c": views.convert}, key="model"))
        found.append(File("hf_config.json", "pytorch/hf_config.json.j2", {"c": views.convert}, key="model"))
    found.append(File("README.md", "pytorch/README.md.j2", {"r": views.readme}, key="name"))
    found.append(File("pyproject.toml", "pytorch/pyproject.toml.j2", {}, key="name"))
    return tuple(found)
