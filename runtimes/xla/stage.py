"""The graphs of a program as text, at the real shapes and on the mesh of its plan, without its devices and without weights.

    python -m llmc.runtimes.xla.stage FOLDER OUT [--layers N]

writes OUT/accumulate.mlir and OUT/update.mlir: StableHLO with the annotations of parallel.py. Tensors are placeholders that hold
nothing, so a model of any size is staged on any machine. Kernels are those that TPUs run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["CPU_NUM_DEVICES"] = "8"  # any number: those of the mesh are names here
os.environ["JAX_PLATFORMS"] = "cpu"

import torch
from torch import Tensor, nn

from . import device, pallas
from .device import Spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="of the first layers only")
    args = parser.parse_args()
    device.start()
    sys.path.insert(0, str(args.folder))
    parallel, program = (importlib.import_module(name) for name in ("parallel", "train"))  # of the folder
    _pretend(parallel.WORLD_SIZE)
    if args.layers is not None:
        _shorten(parallel, layers=args.layers)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in stage(program).items():
        (args.out / f"{name}.mlir").write_text(text, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def stage(program: Any) -> dict[str, str]:
    """Name of a graph -> its StableHLO."""
    from torch_xla.core import xla_model  # pyright: ignore[reportMissingImports]

    program.take_mesh()

    def make(name: str, shape: Tensor) -> Tensor:
        return placeholder(tuple(shape.shape), shape.dtype, program.SPREADS.of(name, shape.dim()))

    model, optimizer = program.build(make, make)
    parameters = list(model.parameters())
    batch = (program.ROWS, program.SEQ_LEN)
    tokens, targets = (placeholder(batch, torch.int64, program.TOKENS) for _ in range(2))
    total = program.accumulate(model, scalar(), tokens, targets)
    graphs = {"accumulate": xla_model.get_stablehlo([total, *_gradients(parameters, program.SPREADS, model)])}

    model, optimizer = program.build(make, make)
    norm = program.update(model, optimizer, scalar())
    states = [norm, *_gradients(list(model.parameters()), program.SPREADS, model)]
    for name, parameter in model.named_parameters():
        spread = program.SPREADS.of(name, parameter.dim())
        for tensor in (parameter.detach(), *(optimizer.state[parameter][kind] for kind in ("exp_avg", "exp_avg_sq"))):
            device.annotate(tensor, spread)
            states.append(tensor)
    graphs["update"] = xla_model.get_stablehlo(states)
    return graphs


def placeholder(shape: tuple[int, ...], dtype: torch.dtype, spread: Spread) -> Tensor:
    """A tensor on the devices that holds nothing."""
    from torch_xla.core import xla_builder  # pyright: ignore[reportMissingImports]

    tensor = xla_builder.create_placeholder_tensor(shape, dtype)
    device.annotate(tensor, spread)
    return tensor


def scalar() -> Tensor:
    return placeholder((), torch.float32, ())


def _gradients(parameters: list[nn.Parameter], spreads: Any, model: nn.Module) -> list[Tensor]:
    found = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        device.annotate(parameter.grad, spreads.of(name, parameter.dim()))
        found.append(parameter.grad)
    return found


def _pretend(num_devices: int) -> None:
    """As on TPUs, and so many of them: kernels are called, though nothing here can run them."""
    device.xr.global_runtime_device_count = lambda: num_devices
    pallas.is_for_tpus = lambda: True


def _shorten(parallel: ModuleType, *, layers: int) -> None:
    """Models of the first so many layers."""
    whole = parallel.Model

    def model() -> nn.Module:
        made = whole()
        made.layers = made.layers[:layers]
        return made

    vars(parallel)["Model"] = model


if __name__ == "__main__":
    main()
