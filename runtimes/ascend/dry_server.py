"""Steps of a built server under torch-npu's schemas and meta kernels, on tensors without numbers: JSON on the last line.

    python -m llmc.runtimes.ascend.dry_server BUILD_DIR

`llmc verify` runs it beside torch-npu, without an NPU: every shape of running answers that is captured, and pieces of prompts, at the sizes
of the plan. A call with a wrong name, order or shape of arguments ends it with the error that torch-npu gives.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import torch
import torch_npu  # type: ignore[import-not-found]
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .kernel_table import has_kernel


class OnNpu(Tensor):
    """A tensor without numbers that says it is on an NPU, so that modules call torch-npu's ops with it."""

    device = torch.device("npu")  # type: ignore[assignment]


class WithoutNpu(TorchFunctionMode):
    """What is made on an NPU is made without numbers in its place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.device(kwargs.get("device") or "cpu").type != "npu":
            return func(*args, **kwargs)
        return func(*args, **kwargs | {"device": "meta"}).as_subclass(OnNpu)


class Names(TorchDispatchMode):
    """Of the ops that are called, whose kernels for tensors without numbers are to take them as such."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        args, kwargs = tree_map_only(OnNpu, lambda each: each.as_subclass(Tensor), (args, kwargs or {}))
        return func(*args, **kwargs)


PROGRAM = "serve"
"""The module of a build."""


def main() -> None:
    torch.npu.is_bf16_supported = lambda: True  # type: ignore[attr-defined]  # which autocast asks an NPU, wherever it is used
    sys.path.insert(0, sys.argv[1])
    serve = importlib.import_module(PROGRAM)
    with torch.device("meta"):
        model = serve.Model().to(torch.bfloat16)
        cache = serve.KVCache(serve.NUM_BLOCKS, serve.BLOCK_TOKENS, torch.bfloat16)
    runner = serve.Runner(model, cache)
    batches = getattr(serve, "GRAPH_BATCHES", ())
    with torch.inference_mode(), WithoutNpu(), Names() as seen:
        for batch in batches:
            chunk = serve.Chunk([0] * serve.MAX_BLOCKS, 0, [0], True)
            *inputs, lengths = runner.answers([chunk], batch=batch)
            hidden = runner.after_answers(*(each.to("meta").as_subclass(OnNpu) for each in inputs), lengths)
            assert hidden.shape[0] == batch
            model.logits(hidden).float()
        if not batches:
            runner.step([serve.Chunk([0], 0, [0], True)] * serve.MAX_BATCH)
        pieces = getattr(serve, "PREFILL_LENGTHS", (serve.PREFILL_CHUNK,))
        for length in pieces:
            runner.step([serve.Chunk(list(range(-(-length // serve.BLOCK_TOKENS))), 0, [0] * length, True)])
    found = {"version": torch_npu.__version__, "batches": batches, "pieces": pieces, "ops": sorted(seen.names)}
    print(json.dumps(found | {"missing": sorted(name for name in seen.names if not has_kernel(name))}))


if __name__ == "__main__":
    main()
