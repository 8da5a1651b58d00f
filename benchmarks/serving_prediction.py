"""The plan of the CPU server beside what it does: time to first token, time per token and rate, at three loads.

    python benchmarks/serving_prediction.py [--rounds 3] [--requests 100] [--preset smollm-135m]

The machine is measured (`llmc doctor --calibrate`), a server is built from a spec that extends the result, and started with random
weights; then come Poisson arrivals at 0.3, 0.5 and 0.7 of the rate that the plan holds, and the plan is played with the very same. Each round measures the machine anew before
it plans and sends: the bandwidth of a shared host changes by half from one minute to the next, and the medians of the rounds are compared.
A busy machine spoils it: the script prints the load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

LLMC = [sys.executable, "-m", "llmc.cli.main"]
LOADS = (0.3, 0.5, 0.7)
NO_PLAN = 3  # exit status: nothing fits, or nothing holds the rate
INPUT, OUTPUT = 64, 32
SPEC = """llmc: 1
extends: here.yaml
name: bench
model: {{preset: {preset}}}
serve:
  max_seq_len: 256
  weights: {{dtype: bf16}}
  layout: {{max_batch: 8, prefill_chunk: 128}}
  workload: {{input_tokens: {input}, output_tokens: {output}, requests_per_s: {rate}}}
"""
ROWS = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "output_tokens_per_s")


def llmc(folder: Path, *words: str) -> str:
    return subprocess.run([*LLMC, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def planned(folder: Path, *, preset: str, rate: float) -> dict[str, float]:
    (folder / "spec.yaml").write_text(SPEC.format(preset=preset, input=INPUT, output=OUTPUT, rate=rate))
    (plan,) = json.loads(llmc(folder, "plan", "spec.yaml", "--json"))
    return plan["serve"]["predicted"]


def capacity(folder: Path, preset: str) -> float:
    """The most requests a second that the plan holds, within a tenth."""

    def holds(rate: float) -> bool:
        try:
            planned(folder, preset=preset, rate=rate)
        except subprocess.CalledProcessError as error:
            if error.returncode != NO_PLAN:
                raise
            return False
        return True

    low = 0.1
    assert holds(low), "this machine is too slow for the benchmark"
    high = 2 * low
    while holds(high):
        low, high = high, 2 * high
    while high > 1.1 * low:
        between = (low + high) / 2
        low, high = (between, high) if holds(between) else (low, between)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100, help="of a load, a round")
    parser.add_argument("--preset", default="smollm-135m")
    args = parser.parse_args()
    measured: dict[float, list[dict[str, float]]] = {share: [] for share in LOADS}
    expected: dict[float, list[dict[str, float]]] = {share: [] for share in LOADS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        llmc(folder, "doctor", "--calibrate", "here.yaml")
        rate = capacity(folder, args.preset)
        planned(folder, preset=args.preset, rate=rate)
        llmc(folder, "build", "spec.yaml")
        command = [sys.executable, "build/bench/serve.py", "--random", "--port", "0"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("serving on ").strip()
            words = ("--url", url, "--json", "--spread", "--requests")
            llmc(folder, "run", "bench", "spec.yaml", *words, "20")
            for number in range(args.rounds):
                if number:
                    llmc(folder, "doctor", "--calibrate", "here.yaml")
                for share in LOADS:
                    planned(folder, preset=args.preset, rate=rate * share)
                    seed = ("--seed", str(number))
                    found = json.loads(llmc(folder, "run", "bench", "spec.yaml", *words, str(args.requests), *seed))
                    expected[share].append(found["predicted"])
                    measured[share].append(found)
                    print(
                        f"round {number + 1}, {share:.0%}:",
                        *(f"{row} {measured[share][-1][row]:.4g} | {expected[share][-1][row]:.4g}" for row in ROWS),
                        flush=True,
                    )
                print(f"round {number + 1} of {args.rounds}, load of the machine {os.getloadavg()[0]:.1f}", flush=True)
                print((folder / "here.yaml").read_text(), flush=True)
        finally:
            server.terminate()
            server.wait(60)
    for share in LOADS:
        print(
            f"{rate * share:.2f} requests/s ({share:.0%} of what the plan holds): medians of the rounds, and all of them"
        )
        show(measured[share], expected[share])


def show(measured: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for row in ROWS:
        found, said = ([each[row] for each in rounds] for rounds in (measured, expected))
        error = median(said) / median(found) - 1
        rounds = "   ".join(f"{one:.4g} | {other:.4g}" for one, other in zip(found, said, strict=True))
        print(f"  {row:<22}{median(found):>9.4g} measured{median(said):>9.4g} planned{error:>+8.0%}     {rounds}")


if __name__ == "__main__":
    main()
