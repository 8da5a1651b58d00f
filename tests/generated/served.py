"""Answers of a generated server's runner, without a server around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmc.runtimes.pytorch.parallel.cuts import Cuts, Whole
from llmc.runtimes.pytorch.parallel.loading import load_cut_weights
from llmc.runtimes.pytorch.parallel.mesh import Axis
from llmc.runtimes.serving.work import Chunk

BLOCKS = 8
"""Of a sequence, each BLOCK_TOKENS long."""


def cut_runner(program: Any, weights: str, tp: Axis) -> Any:
    """A rank's runner, in double precision: near ties are then no matter of luck."""
    model = program.Model(tp).double().eval()
    load_cut_weights(model, weights, Cuts(program.CUTS, rest=Whole(), tp=tp))
    return runner_of(program, model)


def runner_of(program: Any, model: Any) -> Any:
    dtype = next(model.parameters()).dtype
    return program.Runner(model, program.KVCache(4 * BLOCKS, program.BLOCK_TOKENS, dtype))


def greedy(
    runner: Any, prompts: Sequence[Sequence[int]], *, num_new: int, chunk: int = 7
) -> tuple[list[list[int]], Tensor]:
    """Each prompt with its answer, and the logits of the last step: prompts in pieces, then all of them a token at a time."""
    sequences, logits = [list(prompt) for prompt in prompts], torch.empty(0)
    held = [list(range(row * BLOCKS, (row + 1) * BLOCKS)) for row in range(len(prompts))]
    for blocks, tokens in zip(held, sequences, strict=True):
        for start in range(0, len(tokens) - 1, chunk):
            end = min(start + chunk, len(tokens) - 1)
            runner.step([Chunk(blocks, start, tokens[start:end], False)])
    for _ in range(num_new):
        work = [
            Chunk(blocks, len(tokens) - 1, tokens[-1:], True) for blocks, tokens in zip(held, sequences, strict=True)
        ]
        logits = runner.step(work)
        for tokens, token in zip(sequences, logits.argmax(-1).tolist(), strict=True):
            tokens.append(token)
    return sequences, logits
