"""What this CPU does well, measured when a program starts."""

from __future__ import annotations

import os
import sys
import time

import torch

_GEMM_SIZE = 512
_REPEATS = 5


def use_threads(threads: int | None) -> int:
    """Compute on `threads` threads, by default one for each core this process may use; the number chosen."""
    chosen = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(chosen)
    return chosen


def gemm_flops_per_s(dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product: the best of a few, so that a busy machine blurs it less."""
    a = torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=dtype)
    best_s = float("inf")
    for _ in range(_REPEATS):
        started_s = time.perf_counter()
        torch.mm(a, a)
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * _GEMM_SIZE**3 / best_s


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32 (AMX, AVX-512-BF16). Warns, with the price, where it does not."""
    bf16, fp32 = gemm_flops_per_s(torch.bfloat16), gemm_flops_per_s(torch.float32)
    figures = f"{bf16 / 1e9:,.0f} GFLOP/s in bf16, {fp32 / 1e9:,.0f} in fp32"
    if bf16 > fp32:
        print(f"matrix products in bf16: this CPU does {figures}", file=sys.stderr)
        return True
    print(
        f"warning: this CPU has no fast bf16 ({figures}): matrix products run in fp32, {fp32 / bf16:.1f} times faster"
        " than bf16 would be here, and with activations twice as large as planned",
        file=sys.stderr,
    )
    return False
