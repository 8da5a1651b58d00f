"""Training programs as processes: metrics, checkpoints, resuming after kill -9, stopping on a signal."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import TINY, build, tiny_spec

from llmc.runtimes.pytorch.checkpoint import latest_checkpoint, read_meta

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.py of a tiny model on a few files of words, whose corpus a first short run has prepared."""
    folder = tmp_path_factory.mktemp("program")
    generator = random.Random(0)
    texts = folder / "specs" / "texts"
    texts.mkdir(parents=True)
    for number in range(40):
        (texts / f"{number}.txt").write_text(" ".join(generator.choices(WORDS, k=400)))
    data = {
        "sources": [{"path": "texts/*.txt"}],
        "clean": {"min_chars": 0, "dedup": None},
        "tokenizer": {"train": "bpe"},
        "split": {"valid": 0.1},
    }
    train = TINY["train"] | {
        "steps": 16,
        "precision": "bf16",
        "checkpoint": {"every_steps": 5, "keep": 2},
        "validation": {"every_steps": 6},
    }
    spec = tiny_spec(model={"vocab_size": 280}, data=data, train=train)
    build(spec, folder / "build" / "tiny")
    finished(folder, "--max-steps", "1", "--run-dir", "runs/first")
    return folder


def start(folder: Path, *flags: str, kernels: str = "auto") -> subprocess.Popen[str]:
    command = [sys.executable, "build/tiny/train.py", "--threads", "1", *flags]
    environment = {**os.environ, "LLMC_KERNELS": kernels}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(folder: Path, *flags: str, kernels: str = "auto") -> str:
    """Run to the end; what it printed."""
    process = start(folder, *flags, kernels=kernels)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def new_run(folder: Path, name: str) -> Path:
    """The folder of a run whose corpus is there already."""
    run = folder / "runs" / name
    shutil.copytree(folder / "runs" / "first" / "data", run / "data")
    return run


def lines(run: Path) -> list[dict]:
    """metrics.jsonl without what differs from run to run."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in metrics]


def wait_for_line(run: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 100
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= number):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(program: Path) -> Path:
    run = new_run(program, "undisturbed")
    finished(program, "--run-dir", str(run))
    return run


def test_a_run_leaves_metrics_a_curve_a_report_events_and_checkpoints(undisturbed: Path) -> None:
    metrics = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, 17))
    assert all({"step", "loss", "lr", "grad_norm", "tokens_per_s"} <= line.keys() for line in metrics)
    assert [line["step"] for line in metrics if "valid_loss" in line] == [1, 6, 12, 16]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert (undisturbed / "loss.png").read_bytes().startswith(b"\x89PNG")
    report = (undisturbed / "report.html").read_text()
    assert "data:image/png;base64," in report
    assert "http" not in report  # needs nothing but itself
    assert list((undisturbed / "events").glob("events.out.tfevents.*"))
    folders = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert folders == ["step-00000015", "step-00000016"]
    assert (undisturbed / "checkpoints" / "step-00000016" / "tokenizer.json").is_file()


def test_kill_and_resume_repeat_the_undisturbed_run_exactly(program: Path, undisturbed: Path) -> None:
    run = new_run(program, "killed")
    for kill_after in (8, 13):  # past the checkpoints of steps 5 and 10
        process = start(program, "--run-dir", str(run), *(["--resume"] if kill_after > 8 else []))
        wait_for_line(run, kill_after, process)
        process.kill()
        process.communicate()
    output = finished(program, "--run-dir", str(run), "--resume")
    assert "resuming after step" in output
    assert lines(run) == lines(undisturbed)
    files = ("model.safetensors", "optimizer.safetensors")
    ends = [each / "checkpoints" / "step-00000016" for each in (run, undisturbed)]
    assert all((ends[0] / file).read_bytes() == (ends[1] / file).read_bytes() for file in files)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(number: int, program: Path, undisturbed: Path) -> None:
    run = new_run(program, f"signal-{int(number)}")
    process = start(program, "--run-dir", str(run))
    wait_for_line(run, 2, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "stopping after this step" in output
    done = lines(run)
    saved = latest_checkpoint(run)
    assert saved is not None
    assert read_meta(saved).step == done[-1]["step"] < 16
    assert [line["loss"] for line in done] == [line["loss"] for line in lines(undisturbed)[: len(done)]]


def test_resuming_a_finished_run_says_so(program: Path, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    assert "nothing is left to do" in finished(program, "--run-dir", str(undisturbed), "--resume")
    assert (undisturbed / "metrics.jsonl").read_bytes() == before
