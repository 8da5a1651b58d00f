"""A generated model with all its Triton kernels, in the interpreter, beside itself in plain PyTorch: python gpu_model_process.py FOLDER

The program is for eight GPUs with FSDP, where a rank's model is whole and every number bf16. Prints one JSON object a tensor.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from programs import TINY, build, imported, plan_of, tiny_spec
from torch import Tensor
from torch.func import functional_call

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.kernels.checks.interpreter import repair
from llmc.runtimes.kernels.checks.rule import compare


def loss_of(folder: Path, *, kernels: str) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """A model, and its loss as a function of its weights."""
    os.environ["LLMC_KERNELS"] = kernels
    with imported(folder, "model") as (module,):
        model = module.Model()
    names = [name for name, _ in model.named_parameters()]
    tokens = torch.randint(0, 512, (2, 41), generator=torch.Generator().manual_seed(1))

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return self.model.loss(tokens[:, :-1], tokens[:, 1:]) / 80

    whole = Loss()

    def function(*weights: Tensor) -> Tensor:
        return functional_call(whole, dict(zip([f"model.{name}" for name in names], weights, strict=True)), ())

    return model, function


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    repair()
    device = TINY["hardware"]["accelerator"] | {"name": "h100", "kind": "gpu", "architecture": "hopper"}
    spec = tiny_spec(
        without=("serve",),
        model={"num_layers": 2},
        hardware={"accelerator": device},
        train=TINY["train"] | {"precision": "bf16"},
    )
    folder = build(spec, Path(sys.argv[1]), plan=plan_of(spec, layout=Layout(dp_shard=8, zero=3, micro_batch=2)))
    _, eager = loss_of(folder, kernels="eager")
    model, with_kernels = loss_of(folder, kernels="auto")  # last: custom ops are those of the program that came last
    weights = [each.detach().to(torch.bfloat16) for each in model.parameters()]
    names = ["loss", *(name for name, _ in model.named_parameters())]
    for name, found in zip(names, compare(with_kernels, eager, weights), strict=True):
        row = {"name": name, "error": found.error, "allowed": found.allowed, "holds": found.holds}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
