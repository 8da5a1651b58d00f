"""Runs inside a peer's interpreter, without this package: steps of some sequences at a depth, for few_bits.py.

    PYTHON peers.py vllm|openvino FOLDER --format bf16 --batch 8 --depth 512 --threads 2

FOLDER is a checkpoint of Hugging Face's. The first line of standard output has the bytes of the weights; then each line of standard input, a
number of tokens, is answered by the seconds of prompts of that depth and the milliseconds of each step in which every sequence got one.
Sequences are added anew for each line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

MOST_ID = 32_000
"""Of token ids in prompts, as in few_bits.py."""
Add = Callable[[int, list[int], int], object]
"""Number of a request, its prompt, tokens of its answer."""


def vllm(folder: Path, args: argparse.Namespace) -> tuple[Add, Callable[[], list[int]], int]:
    """Add a request; make a step, and tell who got a token; bytes of weights."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": f"0-{args.threads - 1}"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    model = LLM(
        str(folder),
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=args.batch,
        max_num_batched_tokens=1024 * args.batch,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    engine = model.llm_engine

    def add(number: int, prompt: list[int], tokens: int) -> None:
        how = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        engine.add_request(str(number), {"prompt_token_ids": prompt}, how)

    def step() -> list[int]:
        return [int(each.request_id.split("-")[0]) for each in engine.step()]

    return add, step, sum(2 * _count(each) for each in folder.glob("*.safetensors"))


def _count(file: Path) -> int:
    """Numbers in a file, in whatever format."""
    from safetensors import safe_open

    with safe_open(file, "np") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def openvino(folder: Path, args: argparse.Namespace) -> tuple[Add, Callable[[], list[int]], int]:
    import numpy as np  # pyright: ignore[reportMissingImports]
    import openvino as ov  # pyright: ignore[reportMissingImports]
    import openvino_genai as genai  # pyright: ignore[reportMissingImports]

    made = folder.with_name(f"openvino-{args.format}")
    if not (made / "openvino_model.bin").exists():
        weights = {"bf16": "fp16"}.get(args.format, args.format)
        optimum = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", str(folder)]
        task = ["--task", "text-generation-with-past", "--weight-format", weights, str(made)]
        if args.format == "int4":
            task += ["--group-size", "32", "--ratio", "1.0", "--sym"]  # as ours
        subprocess.run([*optimum, *task], check=True, stdout=sys.stderr)
    config = genai.SchedulerConfig()
    config.cache_size, config.max_num_seqs, config.max_num_batched_tokens = 2, args.batch, 1024 * args.batch
    config.enable_prefix_caching = False
    pipe = genai.ContinuousBatchingPipeline(made, config, "CPU", {"INFERENCE_NUM_THREADS": args.threads})
    running: dict[int, object] = {}

    def add(number: int, prompt: list[int], tokens: int) -> None:
        how = genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        running[number] = pipe.add_request(number, ov.Tensor(np.array([prompt], dtype=np.int64)), how)

    def step() -> list[int]:
        pipe.step()
        got = [number for number, handle in running.items() if handle.can_read() and handle.read()]  # type: ignore[attr-defined]
        if not pipe.has_non_finished_requests():
            running.clear()
        return got

    return add, step, (made / "openvino_model.bin").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("vllm", "openvino"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", default="bf16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    add, step, size = (vllm if args.peer == "vllm" else openvino)(args.folder, args)
    draw, number = random.Random(0), 0

    def prefilled(tokens: int) -> float:
        """Seconds until each of a batch of fresh sequences has its first token, of which it is to have so many."""
        nonlocal number
        waiting = set(range(number, number + args.batch))
        for each in waiting:
            add(each, [draw.randrange(MOST_ID) for _ in range(args.depth)], tokens)
        number += args.batch
        started_s = time.perf_counter()
        while waiting:
            waiting -= set(step())
        return time.perf_counter() - started_s

    def finish() -> None:
        while step():
            pass

    prefilled(1)
    finish()
    print(json.dumps({"bytes": size}), file=answers, flush=True)
    for line in sys.stdin:
        prefill_s = prefilled(int(line) + 2)  # a sequence may be a token ahead of the last one's first
        times_ms = []
        for _ in range(int(line)):
            started_s = time.perf_counter()
            got = step()
            times_ms.append(1e3 * (time.perf_counter() - started_s))
            assert len(got) == args.batch, f"{len(got)} of {args.batch} sequences got a token"
        finish()
        print(json.dumps({"prefill_s": prefill_s, "ms": times_ms}), file=answers, flush=True)


if __name__ == "__main__":
    main()
