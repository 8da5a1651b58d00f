"""Triton's interpreter, repaired for bf16 (Triton 3.7 to 3.9): import before a kernel runs, in a process with TRITON_INTERPRET=1.

The interpreter keeps bf16 as the 16 bits of it. As shipped, its matrix product multiplies those bits as integers, and its cast from
fp32 cuts them off, where chips round to nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_cast, _dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot


def widened(bits: np.ndarray) -> np.ndarray:
    """bf16 as its bits -> fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(numbers: np.ndarray) -> np.ndarray:
    """fp32 -> bf16 as its bits, to nearest and to even in the middle; what is not a number stays none."""
    bits = numbers.view(np.uint32)
    upper = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), upper)


def cast(builder: Any, source: TensorHandle, to: Any) -> TensorHandle:
    before, after = source.dtype.scalar, to.scalar
    if before == tl.bfloat16 and after == tl.float32:
        return TensorHandle(widened(source.data), after)
    if before == tl.float32 and after == tl.bfloat16:
        return TensorHandle(rounded(np.ascontiguousarray(source.data)), after)
    return _cast(builder, source, to)


def dot(builder: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, *options: Any) -> TensorHandle:
    if tl.bfloat16 not in (a.dtype.scalar, b.dtype.scalar):
        return _dot(builder, a, b, d, *options)
    left, right = (widened(each.data) if each.dtype.scalar == tl.bfloat16 else each.data for each in (a, b))
    return TensorHandle(np.matmul(left, right, dtype=d.data.dtype) + d.data, d.dtype.scalar)


def repair() -> None:
    """Use the above for the rest of this process."""
    for name in ("cast_impl", "create_fp_trunc", "create_fp_ext"):
        setattr(InterpreterBuilder, name, cast)
    InterpreterBuilder.create_dot = dot  # type: ignore[method-assign]
