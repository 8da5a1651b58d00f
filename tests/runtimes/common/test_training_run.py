"""A run as people see it: metrics without doubles, a bar or lines, a report, nothing overwritten."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.runtimes.common import training_bar
from llmc.runtimes.common.arguments import training_arguments
from llmc.runtimes.common.errors import RunError, run_program
from llmc.runtimes.common.metrics import MetricsLog, read_metrics
from llmc.runtimes.common.stop import StopRequest
from llmc.runtimes.common.training_run import RunPlan, TrainingRun

PLAN = RunPlan(name="tiny <b>", steps=10, flops_per_token=1e6, peak_flops_per_s=1e9)


def figures(loss: float = 2.0, **more: float) -> dict[str, float]:
    return {"loss": loss, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 100.0, **more}


def run(folder: Path, *, first_step: int = 0, max_steps: int | None = None) -> list[int]:
    done = []
    with TrainingRun(PLAN, folder, first_step=first_step, max_steps=max_steps) as running:
        for step in running.steps():
            running.log(step, figures(10.0 / step, **({"valid_loss": 3.0} if step == 1 else {})))
            done.append(step)
    return done


def test_steps_run_from_the_first_to_the_last(tmp_path: Path) -> None:
    assert run(tmp_path, max_steps=4) == [1, 2, 3, 4]
    assert run(tmp_path, first_step=4) == [5, 6, 7, 8, 9, 10]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 11))


def test_resuming_drops_what_comes_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 8))
    path.write_text(whole + '{"step": 8, "lo')
    log = MetricsLog(path, last_step=5)
    log.append({"step": 6, "loss": 2.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [*((n, 1.0) for n in range(1, 6)), (6, 2.0)]


def test_lines_reach_the_disk_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", last_step=0)
    log.append({"step": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    log.close()


def test_a_new_run_destroys_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for _ in range(3):
        run(tmp_path, max_steps=2)
    assert (tmp_path / "data").is_dir()
    for name in ("earlier-1", "earlier-2"):
        assert len(read_metrics(tmp_path / name / "metrics.jsonl")) == 2
        assert f"in {name} now" in capsys.readouterr().err or name == "earlier-2"


def test_the_report_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    run(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "tiny &lt;b&gt;" in page
    assert "<b>" not in page
    assert "10.000 → 1.000" in page
    assert "http" not in page
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_a_failed_run_keeps_its_metrics_and_writes_no_report(tmp_path: Path) -> None:
    def fail() -> None:
        with TrainingRun(PLAN, tmp_path, first_step=0, max_steps=None) as running:
            running.log(1, figures())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert not (tmp_path / "report.html").exists()


def test_mfu_is_the_share_of_the_peak() -> None:
    assert PLAN.mfu(tokens_per_s=250.0) == pytest.approx(0.25)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    bar = training_bar.training_bar(PLAN, first_step=0, last_step=10, stream=stream)
    bar.show({"step": 5, **figures(2.5, valid_loss=2.25)})
    bar.close()
    shown = stream.getvalue()
    assert "5/10" in shown
    assert "validation 2.250" in shown


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(training_bar.time, "monotonic", lambda: now_s[0])
    stream = io.StringIO()
    lines = training_bar.training_bar(PLAN, first_step=0, last_step=10, stream=stream)
    for step in range(1, 11):
        now_s[0] += 3.0
        lines.show({"step": step, **figures(2.0)})
    lines.close()
    told = stream.getvalue().splitlines()
    assert [line.partition(":")[0] for line in told] == ["step 1/10", "step 5/10", "step 9/10", "step 10/10"]
    assert told[1] == "step 5/10: loss 2.000, 100 tokens/s, MFU 10 %, 0:15 left"


def test_nothing_is_faster_than_its_peak() -> None:
    """The spec's is another machine's then."""
    assert (PLAN.mfu_words(1000.0), PLAN.remark(1000.0)) == ("MFU 100 %", None)
    assert PLAN.mfu_words(1010.0) == "MFU > 100 %"
    assert str(PLAN.remark(1010.0)).startswith("faster than the 0.001 TFLOP/s that the spec gives this machine")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_a_run_faster_than_its_peak_is_told_so_once(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_bar, "LINE_INTERVAL_S", 0.0)
    bar = training_bar.training_bar(PLAN, first_step=0, last_step=10, stream=stream)
    for step in range(1, 11):
        bar.show({"step": step, **figures(2.0, tokens_per_s=2000.0)})
    bar.close()
    told = stream.getvalue()
    assert told.count("faster than the") == 1
    assert "2,000 tokens/s, MFU > 100 %, 0:00 left" in told


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65, "1:05"), (3725, "1:02:05")])
def test_times_read_as_on_a_clock(seconds: float, text: str) -> None:
    assert training_bar._clock(seconds) == text


def test_the_first_signal_asks_and_the_second_ends() -> None:
    code = """
import os, signal
from llmc.runtimes.common.stop import StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.requested, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n"
    assert done.returncode == 128 + signal.SIGTERM


def test_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_ends_the_steps_at_a_boundary(tmp_path: Path) -> None:
    with TrainingRun(PLAN, tmp_path, first_step=0, max_steps=None) as running:
        done = []
        for step in running.steps():
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            done.append((step, running.is_last(step)))
            running.log(step, figures())
    assert done == [(1, False), (2, False), (3, True)]


def test_flags() -> None:
    arguments = training_arguments("tiny", ["--resume", "--max-steps", "3", "--threads", "2"])
    assert (arguments.resume, arguments.max_steps, arguments.threads) == (True, 3, 2)
    assert arguments.run_dir == Path("runs/tiny")
    assert training_arguments("tiny", ["--run-dir", "x"]).run_dir == Path("x")


@pytest.mark.parametrize("argv", [["--threads", "0"], ["--max-steps", "x"], ["--res"], ["more"]])
def test_wrong_flags_are_wrong_usage(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        training_arguments("tiny", argv)
    assert end.value.code == 2


def test_a_fault_with_a_help_ends_with_words(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise RunError("it broke", help="mend it")

    with pytest.raises(SystemExit) as end:
        run_program(main)
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: it broke\nhelp: mend it\n"


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_program(main)
