"""How long a command takes from the shell, start-up included: `llmc --help`, and `llmc plan` of each example.

Prints the median and the fastest of the runs beside `python -c pass`, the floor under any Python command.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 11


def wall_s(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    llmc = str(Path(sys.executable).with_name("llmc"))
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "llmc --help": [llmc, "--help"]}
    for example in sorted((ROOT / "examples").glob("*.yaml")):
        commands[f"llmc plan {example.name}"] = [llmc, "plan", str(example.relative_to(ROOT))]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):  # interleaved, so that a busy moment hurts all alike
        for name, command in commands.items():
            times[name].append(wall_s(command))
    print(f"Wall time, {RUNS} runs, Python {platform.python_version()} on {platform.machine()}\n")
    print("| command | median s | fastest s |\n|---|---|---|")
    for name, values in times.items():
        print(f"| `{name}` | {statistics.median(values):.3f} | {min(values):.3f} |")


if __name__ == "__main__":
    main()
