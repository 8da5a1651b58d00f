"""The generated training step against transformers' own: same model, first weights, batches, dtypes, threads; one run.

All train a Llama of 134M (or 39M) parameters with fp32 master weights and bf16 matrix products on text of the standard library.
Each side is a process of its own; they take turns step by step, so that a busy machine slows both alike. Ratios are
medians over the turns. transformers runs twice, with glibc's malloc as it is and told to keep freed memory, which makes
it faster and is what the generated program does. --compiled adds transformers under torch.compile, --litgpt LitGPT under
torch.compile by the Python of an environment that has it, --eager the generated program as it runs without a C++ compiler.

    python benchmarks/train_step.py [--model 134m 39m] [--batch B ...] [--turns N] [--threads N] [--compiled] [--litgpt PYTHON] [--eager] [--json FILE]
    python benchmarks/train_step.py --curve 500 --model 39m --batch 2    # do the losses stay together?
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from allocator import KEEP_FREED
from training.problem import SEQ_LEN, SHAPES, write_first_weights

HERE = Path(__file__).resolve().parent
SPEC = HERE / "specs" / "train-125m.yaml"
WARM_UP_TURNS = 2


@dataclass
class Side:
    """A process that trains, one step when asked."""

    name: str
    process: subprocess.Popen[str]
    answers: list[dict[str, float]] = field(default_factory=list)

    def step(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended")
        self.answers.append(json.loads(line))

    @property
    def seconds(self) -> list[float]:
        return [answer["seconds"] for answer in self.answers[WARM_UP_TURNS:]]

    @property
    def losses(self) -> list[float]:
        return [answer["loss"] for answer in self.answers]

    @property
    def peak_bytes(self) -> float:
        return self.answers[-1]["peak_bytes"]


def start(
    name: str, side: str, *args: object, environment: dict[str, str] | None = None, python: str = sys.executable
) -> Side:
    command = [python, str(HERE / "training" / "worker.py"), side, *map(str, args)]
    environment = {**os.environ, **(environment or {})}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    return Side(name, process)


def build_program(model: str, batch: int, *, folder: Path) -> Path:
    """The generated program of that shape."""
    build, shape = folder / f"{model}-{batch}", SHAPES[model]
    changes = {
        "train.global_batch": batch,
        "parallel.micro_batch": batch,
        "model.hidden_size": shape.hidden,
        "model.num_layers": shape.layers,
        "model.num_heads": shape.heads,
        "model.num_kv_heads": shape.heads,
        "model.intermediate_size": shape.feed_forward,
    }
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    subprocess.run([Path(sys.executable).with_name("llmc"), "build", SPEC, "-o", build, *options], check=True)
    return build


def measure(model: str, batch: int, args: argparse.Namespace, *, folder: Path) -> dict[str, Any]:
    build = build_program(model, batch, folder=folder)
    common = (model, batch, args.threads, folder / model / "model.safetensors")
    sides = [
        start("generated program", "ours", *common, build),
        start("transformers, malloc kept", "transformers", *common, environment=KEEP_FREED),
        start("transformers", "transformers", *common),
    ]
    if args.eager:
        name = "generated, no C++ compiler"
        sides.append(start(name, "ours", *common, build, environment={"LLMC_KERNELS": "eager"}))
    if args.compiled:
        name = "transformers, malloc kept, compiled"
        sides.append(start(name, "transformers-compiled", *common, environment=KEEP_FREED))
    if args.litgpt:
        name = "LitGPT, malloc kept, compiled"
        sides.append(start(name, "litgpt-compiled", *common, environment=KEEP_FREED, python=args.litgpt))
    for _ in range(WARM_UP_TURNS + args.turns):
        for side in sides:
            side.step()
    for side in sides:
        side.process.communicate()
    return {"model": model, "batch": batch, "rows": [row(side, ours=sides[0], batch=batch) for side in sides]}


def row(side: Side, *, ours: Side, batch: int) -> dict[str, Any]:
    ratios = sorted(theirs / own for theirs, own in zip(side.seconds, ours.seconds, strict=True))
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    gaps = [abs(a - b) for a, b in zip(side.losses, ours.losses, strict=True)]
    return {
        "name": side.name,
        "tokens_per_s_median": batch * SEQ_LEN / statistics.median(side.seconds),
        "tokens_per_s_best": batch * SEQ_LEN / min(side.seconds),
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_quartiles": [quartiles[0], quartiles[2]],
        "speed_ratio_best": min(side.seconds) / min(ours.seconds),
        "peak_gib": side.peak_bytes / 2**30,
        "memory_ratio": ours.peak_bytes / side.peak_bytes,
        "last_loss": side.losses[-1],
        "largest_loss_gap": max(gaps),
    }


def compare_curves(model: str, batch: int, args: argparse.Namespace, *, folder: Path) -> None:
    """Both losses over many steps: their gap beside what a step's loss moves by from one batch to the next."""
    build = build_program(model, batch, folder=folder)
    common = (model, batch, args.threads, folder / model / "model.safetensors")
    sides = [
        start("generated program", "ours", *common, build),
        start("transformers", "transformers", *common, environment=KEEP_FREED),
    ]
    print(f"\n{model}, batch {batch} x {SEQ_LEN} tokens, {args.curve} steps")
    print(
        f"{'steps':>12}{'generated':>11}{'transformers':>14}{'mean gap':>10}{'largest':>9}{'batch to batch':>16}",
        flush=True,
    )
    tenth = max(2, args.curve // 10)
    for step in range(1, args.curve + 1):
        for side in sides:
            side.step()
        if step % tenth == 0:
            ours, theirs = (side.losses[-tenth:] for side in sides)
            gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
            noise = statistics.stdev(b - a for a, b in pairwise(theirs)) / math.sqrt(2)
            print(
                f"{step - tenth + 1:>6}-{step:<5}{statistics.mean(ours):>11.4f}{statistics.mean(theirs):>14.4f}"
                f"{statistics.mean(gaps):>+10.4f}{max(map(abs, gaps)):>9.4f}{noise:>16.4f}",
                flush=True,
            )
    for side in sides:
        side.process.communicate()


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['model']}, batch {result['batch']} x {SEQ_LEN} tokens")
    print(
        f"{'':37}{'tokens/s':>10}{'best':>8}{'ours/it (quartiles)':>22}{'best':>7}{'GiB':>7}{'ours/it':>9}{'loss':>9}{'gap':>8}"
    )
    for each in result["rows"]:
        low, high = each["speed_ratio_quartiles"]
        ratio = f"{each['speed_ratio']:.2f} ({low:.2f}-{high:.2f})"
        print(
            f"{each['name']:37}{each['tokens_per_s_median']:10.0f}{each['tokens_per_s_best']:8.0f}{ratio:>22}"
            f"{each['speed_ratio_best']:7.2f}{each['peak_gib']:7.2f}{each['memory_ratio']:9.2f}"
            f"{each['last_loss']:9.4f}{each['largest_loss_gap']:8.4f}"
        )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, nargs="+", default=["134m"])
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 2], help="sequences a step")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compiled", action="store_true", help="transformers under torch.compile too (minutes to start)"
    )
    parser.add_argument("--litgpt", metavar="PYTHON", help="LitGPT under torch.compile too, by this interpreter")
    parser.add_argument("--eager", action="store_true", help="the generated program without its compiled kernels too")
    parser.add_argument("--curve", type=int, metavar="STEPS", help="no times: the losses of both over so many steps")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    print(
        f"{processor()}, {args.threads} threads; {args.turns} turns after {WARM_UP_TURNS}; load {os.getloadavg()[0]:.1f}"
    )
    results = []
    with tempfile.TemporaryDirectory() as name:
        for model in args.model:
            (Path(name) / model).mkdir()
            write_first_weights(Path(name) / model / "model.safetensors", SHAPES[model])
            for batch in args.batch:
                if args.curve:
                    compare_curves(model, batch, args, folder=Path(name))
                    continue
                results.append(measure(model, batch, args, folder=Path(name)))
                show(results[-1])
    if args.json:
        args.json.write_text(json.dumps({"processor": processor(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
