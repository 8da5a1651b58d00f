"""How long `llmc plan` takes: three large trainings, and a curve from 8 to 131,072 devices. Whole processes, start-up included.

Wall seconds are those of this machine as busy as it is; user seconds are what the process itself computed. `layouts` counts
what was weighed, `gap` is 0 where the answer is proven to be the best.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = 3
LLAMA_8B, LLAMA_405B, DEEPSEEK_V3 = "llama-3.1-8b", "llama-3.1-405b", "deepseek-v3"


@dataclass(frozen=True)
class Question:
    """One training to plan."""

    model: str
    devices: int
    global_batch: int
    seq_len: int = 8192

    def spec(self) -> dict[str, Any]:
        return {
            "llmc": 1,
            "name": "planned",
            "model": {"preset": self.model},
            "hardware": {"accelerator": "h100-sxm-80g", "nodes": max(1, self.devices // 8), "per_node": 8},
            "train": {
                "objective": "causal_lm",
                "steps": 1000,
                "seq_len": self.seq_len,
                "global_batch": self.global_batch,
            },
            "parallel": "auto",
        }


NAMED = (
    Question(LLAMA_8B, 64, 1024),
    Question(LLAMA_405B, 16_384, 2048),
    Question(DEEPSEEK_V3, 2048, 15_360, seq_len=4096),
)
CURVE = tuple(
    Question(LLAMA_8B if devices < 512 else LLAMA_405B, devices, max(128, devices // 8))
    for devices in (8 * 4**n for n in range(8))
)


def measure(question: Question, folder: Path) -> tuple[float, float, float, int]:
    """(median wall, median user, gap, layouts) of a few runs."""
    path = folder / "spec.yaml"
    path.write_text(json.dumps(question.spec()), encoding="utf-8")  # JSON is YAML
    llmc = str(Path(sys.executable).with_name("llmc"))
    walls, users = [], []
    for _ in range(RUNS):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
        subprocess.run([llmc, "plan", str(path)], check=True, capture_output=True)
        walls.append(time.perf_counter() - start)
        users.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    gap, layouts = _proven(path)
    return statistics.median(walls), statistics.median(users), gap, layouts


def _proven(path: Path) -> tuple[float, int]:
    from llmc.compiler.pipeline import plan_file

    train = plan_file(path).train
    assert train is not None
    return train.found.gap, train.found.num_layouts


def main() -> None:
    load = os.getloadavg()[0]
    print(f"{RUNS} runs each, Python {platform.python_version()} on {platform.machine()}, load {load:.1f}\n")
    print("| model | devices | layouts | wall s | user s | gap |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for question in (*NAMED, *CURVE):
            wall, user, gap, layouts = measure(question, Path(folder))
            print(
                f"| {question.model} | {question.devices:,} | {layouts:,} | {wall:.2f} | {user:.2f} | {gap:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
