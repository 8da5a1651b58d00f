"""The graph of a piece of a prompt, of a generated server on one chip, without weights: stage_prompt.py FOLDER. Started by test_prompt_memory.py.

Writes FOLDER/prompt.mlir, of the longest piece, up to the logits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, sys.argv[1])

import serve as program  # pyright: ignore[reportMissingImports]  # the generated one
import torch
from torch_xla.core import xla_builder, xla_model  # pyright: ignore[reportMissingImports]

from llmc.runtimes.xla import pallas


def placeholders(model: torch.nn.Module) -> torch.nn.Module:
    """The model with weights that hold nothing."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            there = xla_builder.create_placeholder_tensor(tuple(weight.shape), torch.bfloat16)
            setattr(module, name, torch.nn.Parameter(there, requires_grad=False))
    return model


def main() -> None:
    pallas.is_for_tpus = lambda: True
    with torch.device("meta"):
        model = program.Model()
        cache = program.KVCache(program.NUM_BLOCKS, program.BLOCK_TOKENS, torch.bfloat16)
    model = placeholders(model)
    for kept in (cache.keys, cache.values):
        kept[:] = [xla_builder.create_placeholder_tensor(tuple(each.shape), each.dtype) for each in kept]
    length = program.PREFILL_LENGTHS[-1]
    shapes = (1, length), (1, length), (1, program.MAX_BLOCKS)
    given = [xla_builder.create_placeholder_tensor(shape, torch.int64) for shape in shapes]
    logits = program.Runner(model, cache).logits_of(*given)
    graph = xla_model.get_stablehlo([logits, *cache.keys, *cache.values])
    (Path(sys.argv[1]) / "prompt.mlir").write_text(graph, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
