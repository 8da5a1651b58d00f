"""Does training survive what kills it? Four ranks, one of which is killed with SIGKILL at a random step, again and again.

    python benchmarks/chaos.py [--kills 20] [--seed 0] [--steps 100] [--folder DIR]

The same program runs twice under its generated launch file: undisturbed, and with kills. It saves a checkpoint after every
step, so that many kills fall into the writing of one. What has to hold in the end: the loss of every step is the same to the
bit, every sample was taken for one step and the same samples as without kills, and no torn checkpoint is left or was loaded.
Exits with 1 if something of it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build

RANKS = 4
BATCH = 8
SPEC = """
name: tiny
model: {{family: llama, hidden_size: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, intermediate_size: 64, vocab_size: 300, max_seq_len: 32}}
hardware: {{accelerator: {{like: cpu, per_node: 4}}, nodes: 1}}
data: {{sources: [{{path: text.txt}}], tokenizer: {{train: bpe}}}}
train:
  objective: causal_lm
  steps: {steps}
  seq_len: 32
  global_batch: {batch}
  precision: fp32
  checkpoint: {{every_steps: 1, keep: 2}}
parallel: {{dp_shard: 2, zero: 3, tp: 2, sequence_parallel: true, micro_batch: 2}}
deploy: {{target: torchrun, python: {python}, max_restarts: {restarts}}}
"""
PATIENCE_S = 300.0
"""Within which the run has to get on by a step, starts of four processes on a busy machine included."""


def prepare(folder: Path, *, steps: int, kills: int) -> Path:
    """A spec, its text and its program."""
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text(Path(shutil.__file__).read_text(encoding="utf-8") * 3, encoding="utf-8")
    spec = SPEC.format(steps=steps, batch=BATCH, python=json.dumps(sys.executable), restarts=kills + 2)
    (folder / "spec.yaml").write_text(spec, encoding="utf-8")
    result = build(folder / "spec.yaml", folder / "program")
    assert result.tree is not None, result.diagnostics
    write_tree(result.tree, folder / "program")
    return folder / "program"


class Run:
    """The program under its launch file, with a record of what its ranks take."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder, self.run_dir, self.record = folder, folder / "runs/tiny", folder / "record"
        self.record.mkdir(parents=True)
        path = os.pathsep.join([str(Path(__file__).with_name("chaos")), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "CHAOS_RECORD": str(self.record), "OMP_NUM_THREADS": "1"}
        self.log = (folder / "log").open("w")
        command = ["bash", str(program / "launch/torchrun.sh")]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=self.log, stderr=self.log)

    def lines(self, rank: int) -> list[dict[str, Any]]:
        path = self.record / f"rank-{rank}.jsonl"
        return _whole_lines(path)

    def step(self) -> int:
        """The last one that is done."""
        found = _whole_lines(self.run_dir / "metrics.jsonl")
        return found[-1]["step"] if found else 0

    def wait_for(self, step: int) -> None:
        deadline, seen = time.monotonic() + PATIENCE_S, -1
        while (done := self.step()) < step and self.process.poll() is None:
            if done != seen:
                deadline, seen = time.monotonic() + PATIENCE_S, done
            assert time.monotonic() < deadline, f"step {done} and no further\n{self.said()}"
            time.sleep(0.02)

    def kill(self, rank: int) -> None:
        pid = next(line["pid"] for line in reversed(self.lines(rank)) if "pid" in line)
        os.kill(pid, signal.SIGKILL)

    def wait_for_start(self, number: int) -> None:
        """Until all ranks have started so many times."""
        deadline = time.monotonic() + PATIENCE_S
        while min(sum("pid" in line for line in self.lines(rank)) for rank in range(RANKS)) < number:
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)

    def finish(self) -> None:
        status = self.process.wait(timeout=1200)
        self.log.close()
        assert status == 0, self.said()

    def said(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")[-4000:]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """What is written to the end of its line: the last one may be under way."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def losses(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in _whole_lines(run.run_dir / "metrics.jsonl")]


def samples(run: Run, *, steps: int) -> dict[int, int]:
    """Sample -> window, as training took them in the end; a step that was taken back took the same."""
    found: dict[int, int] = {}
    for rank in range(RANKS):
        for line in run.lines(rank):
            for number, window in enumerate(line.get("windows", ())):
                sample = line["sample"] + number
                assert found.setdefault(sample, window) == window, f"sample {sample} was another one before"
    return {sample: window for sample, window in found.items() if sample < steps * BATCH}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; without it a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        return torment(args.folder or Path(scratch), kills=args.kills, steps=args.steps, seed=args.seed)


def torment(folder: Path, *, kills: int, steps: int, seed: int) -> int:
    program = prepare(folder / "work", steps=steps, kills=kills)
    undisturbed = Run(folder / "undisturbed", program)
    undisturbed.finish()

    chance = random.Random(seed)
    targets = sorted(chance.sample(range(1, steps - 1), kills))
    run, torn = Run(folder / "disturbed", program), 0
    for number, target in enumerate(targets, start=1):
        run.wait_for(target)
        time.sleep(chance.uniform(0.0, 0.05))  # anywhere in a step, or in the writing of a checkpoint
        rank = chance.randrange(RANKS)
        run.kill(rank)
        torn += bool(list((run.run_dir / "checkpoints").glob(".step-*")))
        print(f"kill {number}: rank {rank} after step {target}", flush=True)
        run.wait_for_start(number + 1)
    run.finish()

    expected, found = losses(undisturbed), losses(run)
    taken = samples(run, steps=steps)
    checks = {
        f"losses of {steps} steps, equal to the bit": found == expected and len(found) == steps,
        f"{steps * BATCH} samples, each for one step and the same as without kills": taken
        == samples(undisturbed, steps=steps)
        and sorted(taken) == list(range(steps * BATCH)),
        "no torn checkpoint is left": not list((run.run_dir / "checkpoints").glob(".step-*")),
        "no checkpoint was found damaged": "damaged" not in run.said() and "warning" not in run.said(),
        f"{kills} restarts": min(sum("pid" in line for line in run.lines(rank)) for rank in range(RANKS)) == kills + 1,
    }
    print(f"{torn} of {kills} kills left a checkpoint half-written")
    for what, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
