"""Answers of a generated server's runner, without a server around it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmc.runtimes.pytorch.parallel.cuts import Cuts, Whole
from llmc.runtimes.pytorch.parallel.loading import load_cut_weights
from llmc.runtimes.pytorch.parallel.mesh import Axis
from llmc.runtimes.pytorch.parallel.relay import Stage, neighbours
from llmc.runtimes.serving.vocabulary import _byte_level_table
from llmc.runtimes.serving.work import Chunk

BLOCKS = 8
"""Of a sequence, each BLOCK_TOKENS long."""


def cut_runner(program: Any, weights: str, world: Axis, *, dtype: torch.dtype = torch.float64) -> Any:
    """A rank's runner; in double precision near ties are no matter of luck."""
    if hasattr(program, "LAYERS"):
        return _stage_runner(program, weights, world, dtype=dtype)
    model = program.Model(world).to(dtype).eval()
    load_cut_weights(model, weights, Cuts(program.CUTS, rest=Whole(), tp=world))
    return runner_of(program, model)


def _stage_runner(program: Any, weights: str, world: Axis, *, dtype: torch.dtype) -> Any:
    count = len(program.LAYERS)
    tp = neighbours(world, size=world.size // count)
    make = partial(program.Model, tp) if tp.size > 1 else program.Model
    with torch.device("meta"):
        whole = make(layers=range(sum(map(len, program.LAYERS))), has_embed=True, has_head=True)
    stage = Stage(world, count=count, width=whole.embed.embedding_dim, dtype=dtype)
    layers = program.LAYERS[stage.number]
    model = make(layers=layers, has_embed=stage.is_first, has_head=stage.is_last).to(dtype).eval()
    load_cut_weights(model, weights, Cuts(getattr(program, "CUTS", {}), rest=Whole(), tp=tp), whole=whole)
    cache = program.KVCache(len(layers), 4 * BLOCKS, program.BLOCK_TOKENS, dtype)
    return Told(program.Runner(model, cache, stage), program.VOCAB_SIZE)


class Told:
    """A stage's runner that gives the logits of rank 0 on all ranks."""

    def __init__(self, runner: Any, vocab_size: int) -> None:
        self.runner, self.vocab_size = runner, vocab_size

    def step(self, work: Sequence[Chunk]) -> Tensor:
        logits = self.runner.step(work)
        if dist.get_rank() > 0:
            logits = torch.empty(sum(chunk.needs_logits for chunk in work), self.vocab_size)
        dist.broadcast(logits, 0)
        return logits


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


def save_tokenizer(folder: Path) -> None:
    """One whose tokens are bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=dict(_byte_level_table()), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}>")


def hidden_after(
    model: Any, tokens: Tensor, pieces: Sequence[tuple[int, int]], *, cache: Any, blocks: Tensor
) -> Tensor:
    """Hidden states [B, N, D] after each of N pieces [begin, end) of the sequences [B, T]; single tokens are decoded."""
    count, found = len(tokens), []
    for begin, end in pieces:
        piece, positions = tokens[:, begin:end], torch.arange(begin, end).expand(count, -1)
        held = blocks[:, : -(-end // cache.block_tokens)]
        if end > begin + 1 and hasattr(model, "prefill"):
            bounds = (end - begin) * torch.arange(count + 1)
            joined = model.prefill(piece.reshape(1, -1), positions.reshape(1, -1), held, bounds, cache)  # [1, B, D]
            found.append(joined.transpose(0, 1))
        else:
            found.append(model.decode(piece, positions, held, cache)[:, -1:])
    return torch.cat(found, dim=1)
