"""A mixture of experts trained as a process: killed and resumed, it repeats the undisturbed run bit for bit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from architectures import ARCHITECTURES
from programs import TINY, build, tiny_spec
from test_runs import WORDS, finished, lines, new_run, start, wait_for_line

pytestmark = pytest.mark.slow


def test_kill_and_resume_repeat_a_run_with_experts_exactly(tmp_path: Path) -> None:
    """DeepSeek-like, in bf16 with the optimizer of CPUs: the bias that balances experts is part of what goes on."""
    generator = random.Random(0)
    texts = tmp_path / "specs" / "texts"
    texts.mkdir(parents=True)
    for number in range(20):
        (texts / f"{number}.txt").write_text(" ".join(generator.choices(WORDS, k=400)))
    data = {
        "sources": [{"path": "texts/*.txt"}],
        "clean": {"min_chars": 0, "dedup": None},
        "tokenizer": {"train": "bpe"},
        "split": {"valid": 0.1},
    }
    train = TINY["train"] | {"steps": 10, "precision": "bf16", "checkpoint": {"every_steps": 4, "keep": 2}}
    moe = ARCHITECTURES["deepseek-v3"]["moe"]
    router = moe["router"] | {"balance": "bias", "z_loss_weight": 0.001}
    model = ARCHITECTURES["deepseek-v3"] | {"vocab_size": 280, "moe": moe | {"router": router}}
    build(tiny_spec(model=model, data=data, train=train), tmp_path / "build" / "tiny")
    undisturbed = tmp_path / "runs" / "first"
    finished(tmp_path, "--run-dir", str(undisturbed), kernels="eager")

    killed = new_run(tmp_path, "killed")
    process = start(tmp_path, "--run-dir", str(killed), kernels="eager")
    wait_for_line(killed, 6, process)  # past the checkpoint of step 4
    process.kill()
    process.communicate()
    assert "resuming after step" in finished(tmp_path, "--run-dir", str(killed), "--resume", kernels="eager")

    assert lines(killed) == lines(undisturbed)
    metrics = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert all(line["router_loss"] > 0 for line in metrics)
    for file in ("model.safetensors", "optimizer.safetensors"):
        ends = [run / "checkpoints" / "step-00000010" / file for run in (killed, undisturbed)]
        assert ends[0].read_bytes() == ends[1].read_bytes()
