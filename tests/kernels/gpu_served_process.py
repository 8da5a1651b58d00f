"""Models of generated servers with their Triton kernels, in the interpreter, beside themselves in plain PyTorch: gpu_served_process.py FOLDER

One has weights in few bits, one experts; both compute in fp32. Prints the largest difference of logits and the calls of kernels of each.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from architectures import ARCHITECTURES
from programs import TINY, build, imported, tiny_spec
from torch import Tensor

from llmc.runtimes.kernels.checks.interpreter import repair
from llmc.runtimes.kernels.gpu import Gpu

CALLS: dict[str, int] = {}
SPECS: dict[str, dict[str, Any]] = {
    "few-bits": {"serve": TINY["serve"] | {"weights": {"dtype": "int4", "symmetric": False}}},
    "experts": {"model": ARCHITECTURES["mixtral"]},
}


def counted(call: Any) -> Any:
    def count(self: Gpu, function: str, *args: Any) -> Any:
        CALLS[function] = CALLS.get(function, 0) + 1
        return call(self, function, *args)

    return count


def logits_of(folder: Path, tokens: Tensor, *, kernels: str) -> tuple[Tensor, Tensor]:
    """Of a prompt at once, and of its last tokens one by one, to the cache."""
    os.environ["LLMC_KERNELS"] = kernels
    with imported(folder, "model") as (module,):
        torch.manual_seed(0)
        model = module.Model()
        for layer in model.modules():
            if hasattr(layer, "codes"):
                layer.fill(0.2 * torch.randn(layer.out_features, layer.in_features))
        with torch.no_grad():
            return model.logits(model(tokens)), decoded(module, model, tokens)


def decoded(module: ModuleType, model: Any, tokens: Tensor) -> Tensor:
    cache = module.KVCache(8, 4, torch.float32)
    blocks = torch.tensor([[5, 1, 3], [0, 2, 6]])  # of four tokens each
    found = [model.decode(tokens[:, :6], torch.arange(6).expand(2, 6), blocks[:, :2], cache)]
    for at in range(6, tokens.shape[1]):
        held = blocks[:, : at // 4 + 1].contiguous()
        found.append(model.decode(tokens[:, at : at + 1], torch.full((2, 1), at), held, cache))
    return model.logits(torch.cat(found, dim=1))


def main() -> None:
    torch.set_num_threads(1)
    repair()
    device = TINY["hardware"]["accelerator"] | {"name": "h100", "kind": "gpu", "architecture": "hopper"}
    Gpu.call = counted(Gpu.call)  # type: ignore[method-assign]
    for name, changes in SPECS.items():
        fields = changes | {"model": changes.get("model", {}) | {"num_layers": 2}}
        spec = tiny_spec(without=("train", "data"), hardware={"accelerator": device}, **fields)
        folder, tokens = build(spec, Path(sys.argv[1]) / name), torch.randint(0, 512, (2, 10))
        eager = logits_of(folder, tokens, kernels="eager")
        CALLS.clear()
        found = logits_of(folder, tokens, kernels="auto")
        off = [float((mine - own).abs().max() / own.abs().max()) for mine, own in zip(found, eager, strict=True)]
        print(json.dumps({"name": name, "off": off, "calls": CALLS}), flush=True)


if __name__ == "__main__":
    main()
