"""One side of train_step.py in a process of its own: a line on stdin asks for a step, a line of JSON answers.

python worker.py (ours | transformers | transformers-compiled | litgpt-compiled) SHAPE BATCH THREADS FIRST_WEIGHTS [BUILD_DIR]
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.problem import (
    BETAS,
    CLIP,
    EPS,
    LR,
    NORM_EPS,
    SEQ_LEN,
    SHAPES,
    VOCAB,
    WEIGHT_DECAY,
    Batches,
    Shape,
    as_litgpt,
    as_llama,
)

Step = Callable[[], float]
"""Trains one step and returns its loss."""


def ours(batches: Batches, weights: Path, build: Path) -> Step:
    """The functions of the generated train.py, on this benchmark's batches."""
    sys.path.insert(0, str(build))
    import train  # pyright: ignore[reportMissingImports]

    from llmc.runtimes.pytorch.weights import load_weights

    bf16 = train.has_fast_bf16()
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)
    model = train.Model()
    load_weights(model, weights.parent)
    optimizer = train.make_optimizer(model, bf16=bf16)
    train.keep_freed_memory()
    return lambda: train.train_step(model, optimizer, batches, lr=LR, precision=precision)[0]


def transformers(batches: Batches, weights: Path, shape: Shape, *, is_compiled: bool) -> Step:
    """LlamaForCausalLM as its users train it: SDPA, bf16 by autocast over fp32 weights, AdamW in one call."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        vocab_size=VOCAB,
        max_position_embeddings=SEQ_LEN,
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attn_implementation="sdpa",
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(as_llama(weights, shape))
    run = torch.compile(model) if is_compiled else model
    return peer_step(
        model, batches, lambda tokens, targets: run(input_ids=tokens, labels=targets, shift_labels=targets).loss
    )


def litgpt(batches: Batches, weights: Path, shape: Shape) -> Step:
    """LitGPT's model and loss as its `pretrain` has them, compiled."""
    from litgpt.model import GPT, Config  # pyright: ignore[reportMissingImports]
    from litgpt.utils import chunked_cross_entropy  # pyright: ignore[reportMissingImports]

    config = Config(
        block_size=SEQ_LEN,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.hidden,
        intermediate_size=shape.feed_forward,
        vocab_size=VOCAB,
        padded_vocab_size=VOCAB,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=NORM_EPS,
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    model.load_state_dict(as_litgpt(weights, shape))
    run = torch.compile(model)
    return peer_step(model, batches, lambda tokens, targets: chunked_cross_entropy(run(tokens), targets))


def peer_step(model: torch.nn.Module, batches: Batches, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """fp32 weights, bf16 by autocast, AdamW in one call."""
    model.train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)

    def step() -> float:
        batch = torch.from_numpy(next(batches))
        tokens, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    side, shape, batch, threads, weights = sys.argv[1], SHAPES[sys.argv[2]], *map(int, sys.argv[3:5]), Path(sys.argv[5])
    torch.set_num_threads(threads)
    batches = Batches(batch)
    if side == "ours":
        step = ours(batches, weights, Path(sys.argv[6]))
    elif side == "litgpt-compiled":
        step = litgpt(batches, weights, shape)
    else:
        step = transformers(batches, weights, shape, is_compiled=side == "transformers-compiled")
    for _ in sys.stdin:
        started_s = time.perf_counter()
        loss = step()
        taken_s = time.perf_counter() - started_s
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"loss": loss, "seconds": taken_s, "peak_bytes": peak_bytes}), flush=True)


if __name__ == "__main__":
    main()
