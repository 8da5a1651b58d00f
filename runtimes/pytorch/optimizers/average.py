"""A running average of the weights, as one more thing that the optimizer keeps a parameter: saved, resharded and loaded with it.

average <- decay * average + (1 - decay) * weight          after every step that is taken

python -m llmc.runtimes.pytorch.optimizers.average CHECKPOINT OUT      weights to serve or to export: those of the average
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file

from ...common.errors import RunError, run_program
from ..checkpoint import MODEL, read_meta
from ..weights import SHARDS
from .local import local

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
KIND = "ema"
"""Its name in the optimizer's state, and in checkpoints before the parameter's."""


def keep_average(optimizer: Kind, *, decay: float) -> Kind:
    """The same optimizer, which updates the average after each of its steps. It starts with the weights after the first."""

    @torch.no_grad()
    def update(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if KIND in state:
                    local(state[KIND]).lerp_(local(parameter.detach()), 1.0 - decay)
                elif state:  # it took part in the step
                    state[KIND] = parameter.detach().clone()

    optimizer.register_step_post_hook(update)
    return optimizer


def write_average(checkpoint: Path, out: Path) -> None:
    """A folder that servers and `convert.py export` take as weights. What has no average, such as a bias of routers, stays."""
    from ..parallel.storage import whole_tensors

    read_meta(checkpoint)
    is_sharded = (checkpoint / SHARDS).is_dir()
    average = whole_tensors(checkpoint / "optimizer" if is_sharded else checkpoint, prefix=f"{KIND}.")
    if not average:
        raise RunError(f"{checkpoint} has no average of the weights", help="`train.ema_decay` in a spec keeps one")
    weights = whole_tensors(checkpoint / SHARDS) if is_sharded else load_file(checkpoint / MODEL)
    (out / SHARDS).mkdir(parents=True, exist_ok=True)
    save_file({**weights, **average}, out / SHARDS / "average.safetensors", metadata={"format": "pt"})
    for file in checkpoint.glob("tokenizer*"):
        shutil.copyfile(file, out / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="average", description="Write the averaged weights of a checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    write_average(args.checkpoint, args.out)


if __name__ == "__main__":
    run_program(main)
