"""C++ kernels of a generated program: compiled for this CPU when first needed, cached by content, called through ctypes.

A kernel is a file of plain C++ with `extern "C"` functions beside the Python module that calls it:

    native = load(__file__)                           # swiglu.py -> swiglu.cpp
    if not native.takes(gate_up, dtype=torch.bfloat16):
        return eager_swiglu(gate_up)
    native.call("forward", gate_up, out, rows)        # tensors as pointers, int as int64_t, float as float
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .compile import CompileError, compile_all, find_compiler

CHOICE = "LLMC_KERNELS"
"""Environment variable: `eager` asks for plain PyTorch in place of compiled kernels."""

_PRICE_OF_TRAINING = (
    "a training step then takes 1.8 times as long and 1.6 times the memory (a 134M Llama on two cores: benchmarks/README.md"
    " of llmc)"
)


class Native:
    """The functions of one kernel; without a library it takes nothing."""

    def __init__(self, library: Path | None) -> None:
        self._library = ctypes.CDLL(str(library)) if library else None

    def takes(self, first: Tensor, *others: Tensor, dtype: torch.dtype) -> bool:
        """Whether the kernel, generated for `dtype`, can work on these tensors."""
        if self._library is None or first.dtype != dtype or not first.is_cpu:
            return False
        return not others or all(each.dtype == dtype and each.is_cpu for each in others)

    def function(self, name: str, *, pointers: int, integers: int, is_noted: bool = True) -> Callable[..., None]:
        """A function that takes addresses and then integers: for what a program calls hundreds of times a token, where `call`
        would take longer to look at its arguments than the kernel to work. Its caller answers for memory that is in order.

        Within `recorded` its calls are noted, unless it is what makes them.
        """
        if self._library is None:
            return _no_library
        found = getattr(self._library, name)
        found.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * integers
        found.restype = None
        address = ctypes.cast(found, ctypes.c_void_p).value
        assert address is not None
        if not is_noted:
            return found

        def call(*args: int | None) -> None:
            if _noted.calls is not None:
                _noted.calls.append((address, args))
                if _noted.they_wait:
                    return
            found(*args)

        return call

    def call(self, function: str, *args: Tensor | int | float | None) -> None:
        """Run a function on the memory of contiguous CPU tensors.

        Fake tensors, with which a program is checked without being run, have no memory and are left alone.
        """
        assert self._library is not None, "call `takes` first"
        assert _noted.calls is None, "only calls of a `function` are noted"
        if all(_has_memory(arg) for arg in args):
            getattr(self._library, function)(*map(_as_ctype, args))


Calls = list[tuple[int, tuple[int | None, ...]]]
"""The address of a function, and its arguments."""


class _Noted(threading.local):
    """By this thread: others start their kernels meanwhile."""

    calls: Calls | None = None
    they_wait = False


_noted = _Noted()


@contextmanager
def recorded(*, they_wait: bool = False) -> Iterator[Calls]:
    """Within, the address and the arguments of each call of a `function` are noted; where `they_wait` it is not made."""
    assert _noted.calls is None, "one recording at a time"
    _noted.calls, _noted.they_wait = [], they_wait
    try:
        yield _noted.calls
    finally:
        _noted.calls, _noted.they_wait = None, False


def load(module_file: str, *, price: str = _PRICE_OF_TRAINING) -> Native:
    """The kernel `<module>.cpp` beside `<module>.py`. The first call compiles all kernels of the folder at once.

    `price` says what a program pays without it.
    """
    source = Path(module_file).with_suffix(".cpp")
    if os.environ.get(CHOICE) == "eager":
        return Native(None)
    return Native(_compile_folder(source.parent, price).get(source))


@cache
def _compile_folder(folder: Path, price: str) -> dict[Path, Path]:
    """Source -> library; empty, after a warning that names the price, where there is no working compiler."""
    compiler = find_compiler()
    if compiler is None:
        _warn("no C++ compiler on this machine (g++, or what CXX names)", price)
        return {}
    try:
        return compile_all(sorted(folder.glob("*.cpp")), compiler=compiler)
    except CompileError as problem:
        _warn(str(problem), price)
        return {}


def _warn(reason: str, price: str) -> None:
    print(f"warning: {reason}: kernels run in plain PyTorch, with the same results; {price}", file=sys.stderr)


def _no_library(*_: int | None) -> None:
    raise AssertionError("call `takes` first")


def _has_memory(arg: Tensor | int | float | None) -> bool:
    return not isinstance(arg, Tensor) or type(arg) in (Tensor, nn.Parameter)


def _as_ctype(arg: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if arg is None:
        return ctypes.c_void_p(None)
    if isinstance(arg, Tensor):
        assert arg.is_contiguous(), f"a kernel reads memory in order, not {arg.stride()} of {tuple(arg.shape)}"
        return ctypes.c_void_p(arg.data_ptr())
    return ctypes.c_int64(arg) if isinstance(arg, int) else ctypes.c_float(arg)
