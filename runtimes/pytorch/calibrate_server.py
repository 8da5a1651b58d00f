"""What a server of ours takes on this processor, beside what PyTorch's products do (calibrate.py).

    python -m llmc.runtimes.pytorch.calibrate_server PROGRAM [SECONDS]

Of a program with kernels: its linear layers, its attention of prompts, and a token of an answer, each timed in a process of its own
and printed as JSON. Medians, since they are to predict medians. Programs of two depths tell what a layer takes and what a step does.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..serving.engine import Delta, Engine
from ..serving.generation import Generation, Sampling, generator_for
from ..serving.kv import KVBlocks
from ..serving.sampler import Sampler
from ..serving.scheduler import Scheduler
from .calibrate import LAUNCH_SIZE, TRIED_S, WEIGHT_SIZE, ProductTimes, middle, num_weights, product_times
from .cpu import release_threads, use_threads
from .packed import fill_randomly

PROMPT = 512
"""Tokens, of which attention is timed."""
ANSWER = 200
FIRST = 20
"""Tokens of an answer that are not counted: steps are recorded."""


@dataclass(frozen=True)
class ServerTimes:
    products: ProductTimes
    attention_flops_per_s: float
    """Of a prompt, of the pairs that are seen."""
    token_s: float
    """Of an answer that is alone, from one token to the next."""


def measure(folder: Path, *, tried_s: float = TRIED_S) -> ServerTimes:
    """Of the program in the folder, whose model is small enough to have next to nothing to compute."""
    sys.path.insert(0, str(folder))
    module, server = (importlib.import_module(name) for name in ("model", "serve"))
    model = module.Model().to(torch.bfloat16)
    fill_randomly(model)
    with torch.inference_mode():
        return ServerTimes(
            products=_products(type(model.layers[0].mlp.down), tried_s),
            attention_flops_per_s=_attention_flops_per_s(module, model, tried_s),
            token_s=_token_s(module, server, model),
        )


def _products(linear: Any, tried_s: float) -> ProductTimes:
    def layers(size: int) -> list[Any]:
        first = linear(size, size)
        first.fill_randomly(deviation=0.02)
        return [first, *(_copied(first) for _ in range(num_weights(first.num_bytes) - 1))]

    return product_times(layers(WEIGHT_SIZE), layers(LAUNCH_SIZE), torch.bfloat16, tried_s, turn_s=middle)


def _copied(layer: Any) -> Any:
    """In large pages, as a server's layers are. `copy.deepcopy` would copy all of the region that a small tensor is cut from, to small pages."""
    made = type(layer)(layer.in_features, layer.out_features)
    for name, kept in vars(layer).items():
        if isinstance(kept, torch.Tensor):
            own = getattr(made, name)
            setattr(made, name, own.copy_(kept) if own.shape == kept.shape else kept.clone())
    return made


def _attention_flops_per_s(module: ModuleType, model: Any, tried_s: float) -> float:
    """Two products over the pairs of a query and a key that it sees."""
    blocks = PROMPT // 16
    cache = module.KVCache(blocks, 16, torch.bfloat16)
    positions, bounds = torch.arange(PROMPT)[None], torch.tensor([0, PROMPT])
    places = cache.prompts(torch.arange(blocks)[None], positions, bounds)
    part = next(cache.layers(module.Prompts, *places))
    qkv = torch.randn(1, PROMPT, model.layers[0].attn.qkv.out_features, dtype=torch.bfloat16)
    angles = module.rope(positions)
    heads_size = part.attend(qkv, *angles).shape[-1]
    seconds = middle(lambda: part.attend(qkv, *angles), tried_s / 2)
    return 4 * heads_size * (PROMPT * (PROMPT + 1) / 2) / seconds


def _token_s(module: ModuleType, server: ModuleType, model: Any) -> float:
    """The median over an answer, through the engine: scheduler, model and sampler."""
    longest = ANSWER + FIRST + 8
    blocks = -(-longest // server.BLOCK_TOKENS)
    scheduler = Scheduler(
        KVBlocks(blocks, block_tokens=server.BLOCK_TOKENS),
        max_batch=1,
        max_seq_len=longest,
        prefill_chunk=16,
        max_waiting=1,
        max_waiting_tokens=longest,
    )
    runner = server.Runner(model, module.KVCache(blocks, server.BLOCK_TOKENS, torch.bfloat16))
    engine = Engine(runner, Sampler(server.VOCAB_SIZE), scheduler)
    sampling = Sampling(seed=0)
    generation = Generation(
        tokens=[1, 2, 3, 4],
        num_prompt=4,
        max_tokens=ANSWER + FIRST,
        sampling=sampling,
        eos=frozenset(),
        text=None,
        rng=generator_for(sampling.seed, choice=0),
    )
    arrived_s: list[float] = []
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def post(deltas: list[Delta]) -> None:
        arrived_s.append(time.perf_counter())
        if any(delta.finish for delta in deltas):
            done.put(None)

    release_threads()
    engine.start()
    engine.submit([generation], post)
    done.get(timeout=60)
    engine.stop()
    gaps = sorted(b - a for a, b in zip(arrived_s[FIRST:], arrived_s[FIRST + 1 :], strict=False))
    return gaps[len(gaps) // 2]


def main() -> None:
    use_threads(None)
    folder, tried_s = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else TRIED_S
    print(json.dumps(asdict(measure(folder, tried_s=tried_s))))


if __name__ == "__main__":
    main()
