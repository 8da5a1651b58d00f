"""From one YAML to a trained, served model on this machine: what `make demo` runs.

Plans, builds and trains examples/tiny-code.yaml on the Python standard library, serves the result on a free port of
127.0.0.1, completes code through the official `openai` client, and ends the server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from openai import OpenAI

SPEC = Path(os.path.relpath(Path(__file__).with_name("tiny-code.yaml")))
TRAINING_S = 330.0
"""What the demo trains for, by the plan's tokens/s: the spec's 4M tokens take longer than that on two plain cores."""
RUN = Path("runs/tiny-code")
PROMPTS = ["def __init__(self", "import os\nimport ", "for i in range(", "    if not isinstance("]
LOSS_BOUND = 0.6
"""Validation loss must fall below this share of its first value, or the demo has failed."""


def llmc(*args: str) -> list[str]:
    return [sys.executable, "-m", "llmc.cli.main", *args]


def affordable_tokens() -> int:
    """As many tokens as the plan says TRAINING_S is enough for, in whole steps; at most what the spec asks for."""
    answer = subprocess.run(llmc("plan", str(SPEC), "--json"), check=True, capture_output=True, text=True).stdout
    predicted = json.loads(answer)[0]["train"]["predicted"]
    tokens_per_step = predicted["tokens_per_s"] * predicted["step_time_s"]
    return min(4_000_000, round(TRAINING_S / predicted["step_time_s"]) * round(tokens_per_step))


def run(*args: str) -> None:
    print(f"\n$ llmc {' '.join(args)}", flush=True)
    if status := subprocess.run(llmc(*args)).returncode:
        raise SystemExit(status)  # the command has said why


def validation_losses(metrics: Path) -> list[float]:
    """The validation losses that training wrote, in order."""
    lines = (json.loads(line) for line in metrics.read_text().splitlines())
    return [line["valid_loss"] for line in lines if "valid_loss" in line]


def start_server(shorter: str) -> tuple[subprocess.Popen[str], str]:
    """Start `llmc run serve` and wait until it says where it listens."""
    args = ("run", "serve", str(SPEC), "--set", shorter, "--port", "0")
    print(f"\n$ llmc {' '.join(args)}", flush=True)
    with (RUN / "server.log").open("w") as log:  # its access log would run through the answers
        server = subprocess.Popen(llmc(*args), stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if match := re.search(r"serving on (http://\S+)", line):
            return server, match[1]
    raise SystemExit(f"the server ended with status {server.wait()} before it was ready: see {RUN / 'server.log'}")


def complete(url: str) -> None:
    """Complete a few lines of Python through the OpenAI client, streaming."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    model = client.models.list().data[0].id
    for prompt in PROMPTS:
        started = time.perf_counter()
        print(f"\n--- {prompt!r}\n{prompt}", end="", flush=True)
        pieces = 0
        for event in client.completions.create(model=model, prompt=prompt, max_tokens=48, temperature=0.0, stream=True):
            print(event.choices[0].text, end="", flush=True)
            pieces += 1
        print(f"\n--- {pieces / (time.perf_counter() - started):.0f} pieces/s")


def main() -> None:
    shorter = f"train.tokens={affordable_tokens()}"
    run("plan", str(SPEC), "--set", shorter)
    run("build", str(SPEC), "--set", shorter)
    started = time.perf_counter()
    run("run", "train", str(SPEC), "--set", shorter)
    minutes = (time.perf_counter() - started) / 60

    losses = validation_losses(RUN / "metrics.jsonl")
    share = losses[-1] / losses[0]
    print(f"\nvalidation loss {losses[0]:.3f} -> {losses[-1]:.3f} ({share:.0%}) in {minutes:.1f} min")

    server, url = start_server(shorter)
    try:
        complete(url)
    finally:
        server.terminate()
        server.wait(timeout=30)
    if share >= LOSS_BOUND:
        raise SystemExit(f"validation loss fell to {share:.0%} of its first value; below {LOSS_BOUND:.0%} was promised")


if __name__ == "__main__":
    main()
