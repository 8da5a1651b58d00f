"""What this CPU does well, measured when a program starts."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Sequence

import torch

from ..kernels.compile import cpu_features

_GEMM_SIZE = 512
_MEASURED_S = 0.3
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = (1 << 31) - 1
_OMP_PAUSE_HARD = 2


def use_threads(threads: int | None, *, processes: int = 1) -> int:
    """Compute on `threads` threads, by default one for each core this process may use; the number chosen.

    Where several `processes` of one program share the cores, each has its part.
    """
    chosen = threads or max(1, len(os.sched_getaffinity(0)) // processes)
    torch.set_num_threads(chosen)
    return chosen


def release_threads() -> None:
    """End the threads that help the calling one; they start again when it computes. Call this before another thread computes.

    Each thread that computes has helpers of its own. Where that makes more of them than cores, GNU's OpenMP has helpers sleep
    after each kernel, and not wait for the next one awake: a step of ten small layers took 4 ms so, and 0.2 ms without.
    """
    pause = getattr(
        ctypes.CDLL(None), "omp_pause_resource_all", None
    )  # of torch, which loads it for all; other runtimes may have none
    if pause is not None:
        pause(_OMP_PAUSE_HARD)


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that are freed, for the next step to use again. Call this before there are other threads.

    By default glibc gives them back to the kernel, which then clears them page by page each time they are asked for: up to 100,000
    pages and 6 % of the time of a prompt of 512 tokens in TinyLlama's shape. All threads share one heap: others hold 64 MiB at most.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def release_after_loading() -> None:
    """Give back the memory that loading a model took, which is more than its steps do, and end the threads that did it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    release_threads()


def gemm_flops_per_s(dtypes: Sequence[torch.dtype]) -> list[float]:
    """FLOP/s that one thread does in a square matrix product of each dtype: the best of many turns, taken alternately.

    One thread, because several wait for each other: on a busy machine they measure the scheduler.
    """
    matrices = [torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=dtype) for dtype in dtypes]
    best_s = [math.inf] * len(dtypes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stop_s = time.perf_counter() + _MEASURED_S
        while time.perf_counter() < stop_s:
            for i, a in enumerate(matrices):
                started_s = time.perf_counter()
                torch.mm(a, a)
                best_s[i] = min(best_s[i], time.perf_counter() - started_s)
    finally:
        torch.set_num_threads(threads)
    return [2 * _GEMM_SIZE**3 / best for best in best_s]


def has_vector_bf16() -> bool:
    """Whether this CPU multiplies bf16 in vectors (AVX512_BF16), and has no matrix unit (AMX)."""
    return "avx512_bf16" in cpu_features() and "amx_bf16" not in cpu_features()


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32 (AMX, AVX-512-BF16). Warns, with the price, where it does not."""
    bf16, fp32 = gemm_flops_per_s((torch.bfloat16, torch.float32))
    figures = f"{bf16 / 1e9:,.0f} GFLOP/s in bf16, {fp32 / 1e9:,.0f} in fp32 a thread"
    if bf16 > fp32:
        print(f"matrix products in bf16: this CPU does {figures}", file=sys.stderr)
        return True
    print(
        f"warning: this CPU has no fast bf16 ({figures}): matrix products run in fp32, {fp32 / bf16:.1f} times faster"
        " than bf16 would be here, and with activations twice as large as planned",
        file=sys.stderr,
    )
    return False
