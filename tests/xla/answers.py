"""Random traffic for a generated server's engine, without its API; in torch-xla's environment as a program, started by test_serving.py.

answers.py FOLDER: the program and `weights.safetensors` in FOLDER -> FOLDER/answers.json
"""

from __future__ import annotations

import json
import os
import queue
import random
import sys
from pathlib import Path
from typing import Any

from llmc.runtimes.serving.engine import Delta, Engine
from llmc.runtimes.serving.generation import Generation, Sampling
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.scheduler import Scheduler

REQUESTS = 24


def answers(program: Any, runner: Any) -> list[list[int]]:
    """Greedy tokens for prompts of random lengths, which come in bursts."""
    rng = random.Random(0)
    scheduler = Scheduler(
        KVBlocks(program.NUM_BLOCKS, block_tokens=program.BLOCK_TOKENS),
        max_batch=program.MAX_BATCH,
        max_seq_len=program.MAX_SEQ_LEN,
        prefill_chunk=program.PREFILL_CHUNK,
        max_waiting=REQUESTS,
        max_waiting_tokens=REQUESTS * program.MAX_SEQ_LEN,
        is_fixed=True,
    )
    engine = Engine(runner, program.RowSampler(program.VOCAB_SIZE), scheduler, stall_s=600.0)
    engine.start()
    news: queue.SimpleQueue[list[Delta]] = queue.SimpleQueue()
    generations = [_generation(program, rng) for _ in range(REQUESTS)]
    waiting, finished = list(generations), 0
    while finished < REQUESTS:
        burst = [waiting.pop() for _ in range(min(len(waiting), rng.randint(1, 6)))]
        engine.submit(burst, news.put)
        for _ in range(rng.randint(1, 20) if waiting else 1):
            if finished + len(waiting) == REQUESTS:
                break
            for delta in news.get():
                assert delta.error is None, delta.error
                finished += delta.finish is not None
    engine.stop()
    return [generation.tokens[generation.num_prompt :] for generation in generations]


def _generation(program: Any, rng: random.Random) -> Generation:
    length = rng.choice((1, 2, rng.randint(3, 40), rng.randint(41, 100)))
    prompt = [rng.randrange(program.VOCAB_SIZE) for _ in range(length)]
    most = min(24, program.MAX_SEQ_LEN - length)
    return Generation(prompt, length, rng.randint(1, most), Sampling(temperature=0.0))


def parts_of(tensor: Any) -> list[list[int]]:
    """The shapes of what chips have of a tensor."""
    from llmc.runtimes.xla.device import local_shards

    return [list(shard.unpadded_data.shape) for shard in local_shards(tensor)]


def main() -> None:
    import torch
    from safetensors.torch import load_file

    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    import serve as program  # pyright: ignore[reportMissingImports]  # the generated one

    is_spread = hasattr(program, "take_mesh")  # over several chips
    if is_spread:
        program.take_mesh()
    model = program.Model()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    with program.device():
        cache = program.KVCache(program.NUM_BLOCKS, program.BLOCK_TOKENS, torch.float32)
    if is_spread:
        runner = program.Runner(program.spread(model), program.spread_cache(cache))
    else:
        runner = program.Runner(model.to(program.device()), cache)
    program.sync()
    counts = [program.num_compiled()]
    runner.warm_up()
    counts.append(program.num_compiled())
    found = answers(program, runner)
    counts.append(program.num_compiled())
    held = (cache.keys[0], cache.values[-1], model.layers[0].attn.qkv.weight) if is_spread else ()
    told = {
        "answers": found,
        "compiled": counts,
        "planned": program.NUM_GRAPHS,
        "held": [parts_of(each) for each in held],
    }
    text = json.dumps(told)
    (folder / "answers.json").write_text(text, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
