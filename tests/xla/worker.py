"""Runs generated programs on the CPU devices of torch-xla and writes what they computed. Started by test_parity.py and test_training.py.

worker.py [--steps N] [--lr RATE] FOLDER...: for each folder, FOLDER/found.safetensors with the names of reference.safetensors, which lies beside the folder
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmc.runtimes.xla import device

GENERATED = ("kernels", "model", "parallel", "train")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    device.start()
    for folder in args.folders:
        reference = load_file(folder.parent / "reference.safetensors")
        save_file(run(folder, reference, steps=args.steps, lr=args.lr), folder / "found.safetensors")


def run(folder: Path, reference: dict[str, Tensor], *, steps: int, lr: float) -> dict[str, Tensor]:
    """Losses, norms and gradients of the program in a folder, from the weights and batches of the reference."""
    sys.path.insert(0, str(folder))
    try:
        program = importlib.import_module("train")
        return trained(program, reference, steps=steps, lr=lr)
    finally:
        sys.path.remove(str(folder))
        for name in [each for each in sys.modules if each.partition(".")[0] in GENERATED]:
            del sys.modules[name]


def trained(program: Any, reference: dict[str, Tensor], *, steps: int, lr: float) -> dict[str, Tensor]:
    program.take_mesh()
    spreads = program.SPREADS
    model, optimizer = program.build(lambda name, _: spreads.place(name, reference[f"first.{name}"]), spreads.zeros)
    found, figures = {}, []
    for step in range(steps):
        windows = reference["batches"][step].unflatten(0, (-1, program.ROWS)).numpy()
        batches = list(program.on_devices(iter(windows)))
        if step == 0:
            found |= gradients(program, model, batches)
        figures.append(program.train_step(model, optimizer, batches, lr=lr))
    losses, norms = zip(*figures, strict=True)
    return found | {"loss": torch.tensor(losses), "grad_norm": torch.tensor(norms)}


def gradients(program: Any, model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Those of the first step, as checkpoints have them and before they are clipped; they are zero again afterwards."""
    total = torch.zeros((), device=device.device())
    for tokens, targets in batches:
        total = program.run_accumulate(model, total, tokens, targets)
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[f"gradients.0.{name}"] = program.SPREADS.one_below_the_other(name, parameter.grad.cpu())
        parameter.grad.zero_()
    device.sync()
    return found


if __name__ == "__main__":
    main()
