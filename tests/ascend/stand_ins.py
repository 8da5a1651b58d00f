"""A generated program for Ascend beside the same one for CPUs, in a process with torch-npu: python stand_ins.py NPU_FOLDER CPU_FOLDER

What stands for NPUs is run on this CPU: CPU stand-ins are put under torch-npu's own schemas, which check names, order and formats of
arguments, and the places that ask for the device are told that this is one. Prints the largest differences as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch_npu  # type: ignore[import-not-found]  # noqa: F401
from torch import Tensor

import llmc.runtimes.ascend.norm
import llmc.runtimes.pytorch.experts as experts

CALLS = {"npu_rms_norm": 0, "npu_swiglu": 0, "npu_swiglu_backward": 0, "npu_grouped_matmul": 0}


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    CALLS["npu_rms_norm"] += 1
    scale = (x.float().pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
    return (x.float() * scale * gamma.float()).to(x.dtype), scale


def swiglu(x: Tensor, dim: int = -1) -> Tensor:
    CALLS["npu_swiglu"] += 1
    gate, up = x.chunk(2, dim)
    return gate * gate.sigmoid() * up


def swiglu_backward(grad_output: Tensor, x: Tensor, dim: int = -1) -> Tensor:
    CALLS["npu_swiglu_backward"] += 1
    gate, up = x.chunk(2, dim)
    s = gate.sigmoid()
    return torch.cat((grad_output * up * (s + gate * s * (1 - s)), grad_output * gate * s), dim)


def grouped_matmul(x: list[Tensor], weight: list[Tensor], **given: Any) -> list[Tensor]:
    """Rows of x in groups, or the numbers of x and rows of the weight that are summed: `group_list` are the ends of groups."""
    CALLS["npu_grouped_matmul"] += 1
    ends, kind = given["group_list"], given["group_type"]
    assert ends.dtype == torch.int64
    assert given["split_item"] == 3
    assert given.get("group_list_type", 0) == 0
    ((left,), (right,)) = x, weight
    bounds = [0, *ends.tolist()]
    spans = [slice(begin, end) for begin, end in pairwise(bounds)]
    if kind == 2:
        return [torch.stack([left[:, span] @ right[span] for span in spans])]
    assert kind == 0
    assert left.shape[1] == right.shape[1]
    return [torch.cat([left[span] @ matrix for span, matrix in zip(spans, right, strict=True)])]


def loaded(file: Path, name: str, *, edit: bool = False) -> ModuleType:
    """A module by its file; with `edit`, what asks for NPUs finds them here."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    text = file.read_text(encoding="utf-8")
    assert not edit or '"npu"' in text
    exec(compile(text.replace('"npu"', '"cpu"') if edit else text, str(file), "exec"), module.__dict__)
    return module


def model_of(folder: Path, *, is_npu: bool) -> torch.nn.Module:
    for name in [name for name in sys.modules if name == "kernels" or name.startswith("kernels.") or name == "model"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    if is_npu and (folder / "kernels" / "swiglu.py").exists():
        loaded(folder / "kernels" / "swiglu.py", "kernels.swiglu", edit=True)
    torch.manual_seed(0)
    module = loaded(folder / "model.py", "model")
    sys.path.remove(str(folder))
    return module.Model()


def main() -> None:
    torch.set_num_threads(1)
    torch.npu.is_bf16_supported = lambda: True  # which autocast asks an NPU, wherever it is used
    library = torch.library.Library("npu", "IMPL")
    library.impl("npu_rms_norm", rms_norm, "CompositeImplicitAutograd")
    library.impl("npu_swiglu", swiglu, "CPU")
    library.impl("npu_swiglu_backward", swiglu_backward, "CPU")
    library.impl("npu_grouped_matmul", grouped_matmul, "CPU")
    loaded(Path(llmc.runtimes.ascend.norm.__file__), "llmc.runtimes.ascend.norm", edit=True)
    npu, cpu = model_of(Path(sys.argv[1]), is_npu=True), model_of(Path(sys.argv[2]), is_npu=False)
    npu.load_state_dict(cpu.state_dict())
    tokens = torch.randint(0, 512, (2, 33))
    losses = []
    for model in (npu, cpu):
        experts._is_on_npu = lambda _, model=model: model is npu
        losses.append(model.loss(tokens[:, :-1], tokens[:, 1:]) / 64)
        losses[-1].backward()
    gradients = zip(npu.parameters(), cpu.parameters(), strict=True)
    off = max(float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in gradients)  # type: ignore[operator,union-attr]
    print(json.dumps({"loss": float((losses[0] - losses[1]).detach().abs()), "gradient": off, "calls": CALLS}))


if __name__ == "__main__":
    main()
