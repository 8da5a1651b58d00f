"""What the compiler of TPUs needs of the Pallas kernels of a build, in torch-xla's environment.

    python -m llmc.runtimes.kernels.checks.ahead_tpu BUILD_DIR OUT [--rows 1100]

The functions that model.py calls are called on tensors of the CPU, forward and backward, and each call of a kernel is noted in place of
being run. Every different one becomes OUT/<number>.mlir, StableHLO with the kernel as JAX writes it for TPUs; OUT/graphs.json names them.
runtimes/xla/compile_kernels.py compiles them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["JAX_PLATFORMS"] = "cpu"

import torch
from torch import Tensor

from ...xla import device, pallas
from .build_folder import described, module_of
from .cases import cases_of
from .rule import run

ROWS = 1100
"""Tokens of a sequence: more than any block has, and no multiple of one."""


@dataclass(frozen=True)
class Start:
    """One call of a kernel: the function, and shapes and dtypes of what it takes; None is passed on."""

    function: Any
    signature: tuple[tuple[tuple[int, ...], torch.dtype] | None, ...]


@contextmanager
def caught_starts() -> Iterator[list[Start]]:
    """Calls of kernels are noted and give zeros."""
    starts: list[Start] = []
    call, interprets = pallas.Tpu.call, pallas.is_interpreted

    def note(self: pallas.Tpu, function: str, *args: Tensor | None, takes: Any, gives: Any) -> list[Tensor]:
        signature = tuple(None if each is None else (tuple(each.shape), each.dtype) for each in args)
        starts.append(Start(getattr(self.module, function), signature))
        return [torch.zeros(shape, dtype=dtype) for shape, dtype in device.results_of(starts[-1].function, signature)]

    pallas.Tpu.call = note  # type: ignore[method-assign]
    pallas.is_interpreted = lambda: True
    try:
        yield starts
    finally:
        pallas.Tpu.call, pallas.is_interpreted = call, interprets  # type: ignore[method-assign]


def starts_of(kernel: dict[str, Any], module: Any, *, rows: int) -> Sequence[Start]:
    """Every different call, in the order in which they come."""
    with caught_starts() as starts:
        for case in cases_of(kernel, module, rows=(rows,)):
            run(case.function, case.inputs)
    return list(dict.fromkeys(starts))


def main() -> None:
    parser = argparse.ArgumentParser(prog="ahead_tpu")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.folder.resolve()
    listed = []
    for kernel in described(folder)["kernels"]:
        for start in starts_of(kernel, module_of(folder, kernel["name"]), rows=args.rows):
            graph = f"{len(listed)}.mlir"
            (args.out / graph).write_text(device.lowered(start.function, start.signature).as_text(), encoding="utf-8")
            listed.append(
                {
                    "graph": graph,
                    "kernel": kernel["name"],
                    "function": f"{start.function.__name__}{_left_out(start)}",
                    "dtype": kernel["dtype"],
                }
            )
    (args.out / "graphs.json").write_text(json.dumps(listed), encoding="utf-8")


def _left_out(start: Start) -> str:
    """Functions that may be called without one of their tensors are compiled either way."""
    return " without one" if None in start.signature else ""


if __name__ == "__main__":
    main()
