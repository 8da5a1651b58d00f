"""The plan of the CPU server beside what it does: time to first token, time per token and rate, at three loads.

    python benchmarks/serving_prediction.py [--requests 160] [--preset smollm-135m]

The machine is measured first (`llmc doctor --calibrate`); then the server is built from a spec that extends the result, started with
random weights, and sent a few to warm up and then Poisson arrivals at 0.3, 0.5 and 0.7 of the rate that the plan holds. A busy machine spoils it: the
script prints the load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--preset", default="smollm-135m")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(llmc(folder, "doctor", "--calibrate", "here.yaml"))
        rate = capacity(folder, args.preset)
        planned(folder, preset=args.preset, rate=rate)
        llmc(folder, "build", "spec.yaml")
        command = [sys.executable, "build/bench/serve.py", "--random", "--port", "0"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("serving on ").strip()
            warm = ("--url", url, "--json", "--spread", "--requests", "20")
            llmc(folder, "run", "bench", "spec.yaml", *warm)
            for share in LOADS:
                predicted = planned(folder, preset=args.preset, rate=rate * share)
                words = ("--url", url, "--json", "--spread", "--requests", str(args.requests))
                measured = json.loads(llmc(folder, "run", "bench", "spec.yaml", *words))
                show(share, rate * share, measured, predicted)
        finally:
            server.terminate()
            server.wait(60)


def show(share: float, rate: float, measured: dict[str, float], predicted: dict[str, float]) -> None:
    print(f"{rate:.2f} requests/s ({share:.0%} of what the plan holds), load of the machine {os.getloadavg()[0]:.1f}")
    for row in ROWS:
        error = predicted[row] / measured[row] - 1
        print(f"  {row:<22}{measured[row]:>10.4g} measured{predicted[row]:>10.4g} planned{error:>+9.0%}")


if __name__ == "__main__":
    main()
