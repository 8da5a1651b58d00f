"""bf16 is used where it was measured to be fast, and given up with the price elsewhere."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from llmc.runtimes.pytorch import cpu
from llmc.runtimes.pytorch.steps import check_finite


def measured(monkeypatch: pytest.MonkeyPatch, *, bf16: float, fp32: float) -> None:
    figures = {torch.bfloat16: bf16, torch.float32: fp32}
    monkeypatch.setattr(cpu, "gemm_flops_per_s", lambda dtypes: [figures[dtype] for dtype in dtypes])


def test_fast_bf16_is_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measured(monkeypatch, bf16=4e11, fp32=2e11)
    assert cpu.has_fast_bf16()
    assert (
        capsys.readouterr().err == "matrix products in bf16: this CPU does 400 GFLOP/s in bf16, 200 in fp32 a thread\n"
    )


def test_slow_bf16_is_given_up_with_its_price(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, bf16=2e10, fp32=2e11)
    assert not cpu.has_fast_bf16()
    told = capsys.readouterr().err
    assert "warning" in told
    assert "10.0 times faster" in told


def test_the_measurement_is_of_this_machine() -> None:
    threads = torch.get_num_threads()
    (fp32,) = cpu.gemm_flops_per_s([torch.float32])
    assert 1e8 < fp32 < 1e15
    assert torch.get_num_threads() == threads


def test_threads_are_as_asked() -> None:
    before = torch.get_num_threads()
    try:
        assert cpu.use_threads(1) == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


PROGRAM = """
import os, time, torch
from llmc.runtimes.pytorch.cpu import release_threads, use_threads

def threads():
    return len(os.listdir("/proc/self/task"))

def compute():
    return torch.ones(512, 512).mm(torch.ones(512, 512)).sum().item()

use_threads(3)
before = threads()
compute()
print("helpers", threads() - before)
release_threads()
end = time.monotonic() + 60
while threads() > before and time.monotonic() < end:
    time.sleep(0.01)
print("then", threads() - before, "of", torch.get_num_threads())
assert compute() == 512**3
print("again", threads() - before)
"""


def test_released_threads_are_gone_until_there_is_something_to_compute() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["helpers 2", "then 0 of 3", "again 2"]


FAULTS = """
import resource, threading, torch
from llmc.runtimes.pytorch.cpu import keep_freed_memory, release_after_loading

def resident():
    return int(open("/proc/self/statm").read().split()[1])

def step():
    torch.ones(40 << 20)
    torch.ones(3 << 20)

def steps():
    for _ in range(12):  # small pieces between blocks are not joined with them until there are some
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

KEEP
thread = threading.Thread(target=steps)
thread.start()
thread.join()
before = resident()
release_after_loading()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_what_a_thread_frees_is_kept_for_its_next_step_and_given_back_when_asked() -> None:
    """In pages of 4 KiB: blocks of 160 and 12 MiB are 44,032 in each of four steps."""
    found = {}
    for keep in ("", "keep_freed_memory()"):
        program = FAULTS.replace("KEEP", keep)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found[keep] = [int(each) for each in done.stdout.split()]
    assert found[""][0] > 100_000
    faults, returned = found["keep_freed_memory()"]
    assert faults < 1_000
    assert returned > 40_000


@pytest.mark.parametrize(("loss", "grad_norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_diverged_step_is_an_error_with_words(loss: float, grad_norm: float) -> None:
    with pytest.raises(Exception, match="diverged"):
        check_finite(loss=loss, grad_norm=grad_norm)
    check_finite(loss=1.0, grad_norm=1.0)
