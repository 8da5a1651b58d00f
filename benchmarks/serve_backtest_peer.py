"""How far are our serving predictions and `aiconfigurator`'s from the same published rows? One run, the same rows.

    python -m venv PEER && PEER/bin/pip install aiconfigurator      # anywhere outside this repository
    .venv/bin/python benchmarks/serve_backtest_peer.py PEER/bin/python [--every 8] [--question]

Every N-th row that both can price (a model of whose configuration it has, on a GPU and with an engine whose tables it has). Ours are
the fitted constants and, beside them, constants fitted without the row's publisher; the peer's tables and rules hold what its
authors put there. `--question` times both on the question of examples/5-serve-slo.yaml.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmc.compiler.backtest.as_spec import CannotPrice
from llmc.compiler.backtest.score import quantile
from llmc.compiler.backtest.serve_backtest import PricedServe, price_serving
from llmc.compiler.backtest.serve_price import serve_case_of
from llmc.compiler.backtest.serve_rows import ServeRow, read_serve_rows

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks/measurements/serve.csv"
WORKER = ROOT / "benchmarks/serving/peer_worker.py"
MODELS = {
    "Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "Llama-3.3-70B": "meta-llama/Meta-Llama-3.1-70B",
    "Llama-3.1-8B": "meta-llama/Meta-Llama-3.1-8B",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "MiniMax-M2.5": "MiniMaxAI/MiniMax-M2.5",
    "Qwen3-32B": "Qwen/Qwen3-32B",
}
SYSTEMS = {
    "h100-sxm-80g": "h100_sxm",
    "h100-80g": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
}
BACKENDS = {"vLLM": "vllm", "TensorRT-LLM": "trtllm", "SGLang": "sglang", "NVIDIA NIM (TensorRT-LLM)": "trtllm"}
QUESTION = "cli default --model-path meta-llama/Meta-Llama-3.1-70B --system h100_sxm --total-gpus 32 --isl 2048 --osl 256 --ttft 600 --tpot 40"


def arguments_of(row: ServeRow) -> dict[str, Any] | None:
    """The peer's words for a row; None where it has none."""
    if row.model not in MODELS or row.accelerator not in SYSTEMS or row.engine not in BACKENDS:
        return None
    if None in (row.input_tokens, row.output_tokens, row.concurrency, row.tpot_s, row.ttft_s):
        return None
    has_experts = row.model in ("gpt-oss-120b", "MiniMax-M2.5")
    arguments: dict[str, Any] = {
        "model_path": MODELS[row.model],
        "system_name": SYSTEMS[row.accelerator],
        "backend_name": BACKENDS[row.engine],
        "isl": round(row.input_tokens or 0),
        "osl": round(row.output_tokens or 0),
        "batch_size": round(row.concurrency or 0),
        "tp_size": row.tp,
    }
    if has_experts:
        arguments |= {"moe_tp_size": row.tp // row.ep, "moe_ep_size": row.ep}
    if row.weights in ("fp8", "nvfp4") and not has_experts:
        arguments |= {"gemm_quant_mode": row.weights, "kvcache_quant_mode": "fp8"}
    if row.weights == "nvfp4" and has_experts:
        arguments |= {"gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4"}
    return arguments


def ask_peer(interpreter: Path, rows: list[tuple[ServeRow, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    lines = "".join(json.dumps({"id": row.id, "arguments": arguments}) + "\n" for row, arguments in rows)
    done = subprocess.run([interpreter, WORKER], input=lines, capture_output=True, text=True, check=True)
    answers = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return {answer["id"]: answer for answer in answers}


Value = Callable[[PricedServe, dict[str, Any]], float | None]


def table(rows: list[tuple[PricedServe, dict[str, Any]]]) -> None:
    """Median and 90th percentile of |predicted / published - 1| of both."""
    print("| | rows | ours: median | p90 | ours, publisher left out: median | aiconfigurator: median | p90 |")
    print("|---|---|---|---|---|---|---|")
    groups: dict[str, list[tuple[PricedServe, dict[str, Any]]]] = {"all": rows}
    for each in rows:
        groups.setdefault(f"{each[0].row.engine}, {'experts' if each[0].has_experts else 'dense'}", []).append(each)
    for what in ("tpot", "ttft"):
        for name, group in groups.items():
            ours = [abs(pair.predicted / pair.published - 1) for each, _ in group if (pair := each.pair(what))]
            without = [abs(each.left_out[what]) for each, _ in group if what in each.left_out]
            published = {"tpot": lambda row: row.tpot_s, "ttft": lambda row: row.ttft_s}[what]
            theirs = [abs(answer[f"{what}_s"] / published(each.row) - 1) for each, answer in group]
            left = f"{quantile(without, 0.5):.1%}" if without else ""
            print(
                f"| {what.upper()}, {name} | {len(group)} | {quantile(ours, 0.5):.1%} | {quantile(ours, 0.9):.1%} | {left}"
                f" | {quantile(theirs, 0.5):.1%} | {quantile(theirs, 0.9):.1%} |"
            )


def time_question(interpreter: Path) -> None:
    """Whole processes, one after the other, three times each; the best of each."""
    commands = {
        "llmc plan examples/5-serve-slo.yaml": [
            sys.executable,
            "-m",
            "llmc",
            "plan",
            str(ROOT / "examples/5-serve-slo.yaml"),
        ],
        "aiconfigurator cli default": [str(interpreter.parent / "aiconfigurator"), *QUESTION.split()],
    }
    for name, command in commands.items():
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            taken.append(time.perf_counter() - began)
        print(f"{name}: {min(taken):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreter", nargs="?", type=Path, help="a Python that has aiconfigurator")
    parser.add_argument("--every", type=int, default=8, help="of the rows, every N-th")
    parser.add_argument("--question", action="store_true", help="time the question of examples/5-serve-slo.yaml too")
    options = parser.parse_args()
    if options.interpreter is None or not options.interpreter.is_file():
        print("skipped: aiconfigurator is not installed (give the path of a Python that has it)")
        return
    known = [(row, arguments) for row in read_serve_rows(ROWS) if (arguments := arguments_of(row)) is not None]
    asked = known[:: options.every]
    answers = ask_peer(options.interpreter, asked)
    both, refused = [], 0
    for row, _ in asked:
        answer = answers.get(row.id, {})
        try:
            ours = price_serving(serve_case_of(row))
        except CannotPrice:
            continue
        if "tpot_s" in answer and answer["tpot_s"] > 0:
            both.append((ours, answer))
        else:
            refused += 1
    print(
        f"{len(known)} rows that both know, every {options.every}th of them asked: {len(both)} priced by both, {refused} not by the peer\n"
    )
    table(both)
    if options.question:
        time_question(options.interpreter)


if __name__ == "__main__":
    main()
