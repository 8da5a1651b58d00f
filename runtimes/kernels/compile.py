"""Compiling C++ kernels with plain g++: no headers of torch, so a kernel takes a second or two, once for each content.

The cache is `$XDG_CACHE_HOME/llmc/kernels` (`~/.cache/llmc/kernels`). A library's name has the checksum of all that
decides its content: source, headers, flags, compiler. Nothing there is ever out of date; it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

INCLUDE = Path(__file__).resolve().parent / "include"
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
"""Not -ffast-math: it would undo the rounding trick of exp, and switch the whole process to flush denormals."""

_X86_OPTIONS = (
    ({"avx2", "fma"}, "-march=x86-64-v3"),
    ({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "-march=x86-64-v4"),
    ({"avx512_bf16"}, "-mavx512bf16"),
    ({"avx512_vnni"}, "-mavx512vnni"),
)
"""What /proc/cpuinfo must list for an option; a later -march replaces an earlier one. `-march=native` of older compilers
misjudges newer processors."""


class CompileError(Exception):
    """A compiler that failed, with the end of what it said; or what it writes has no place."""


def find_compiler() -> str | None:
    """The C++ compiler that CXX names, or g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def compile_all(sources: list[Path], *, compiler: str) -> dict[Path, Path]:
    """Source -> shared library. What is not in the cache is compiled at the same time, one process a source."""
    libraries = {source: cache_dir() / f"{source.stem}-{_key(source, compiler=compiler)}.so" for source in sources}
    missing = {source: library for source, library in libraries.items() if not library.exists()}
    if missing:
        _make_cache_dir()
    running = [_start(source, library, compiler=compiler) for source, library in missing.items()]
    for process, work, library in running:
        _, complaint = process.communicate()
        if process.returncode != 0:
            raise CompileError(f"{compiler} failed on {library.name}: {complaint.strip()[-1000:]}")
        work.replace(library)  # whole or absent, even when two programs compile the same kernel
    return libraries


def _make_cache_dir() -> None:
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CompileError(f"no place for compiled kernels: {problem} (XDG_CACHE_HOME names another)") from problem


def cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "llmc" / "kernels"


def _start(source: Path, library: Path, *, compiler: str) -> tuple[subprocess.Popen[str], Path, Path]:
    work = library.with_name(f".{library.name}.{os.getpid()}")
    command = [compiler, *_FLAGS, *_cpu_flags(), "-I", str(INCLUDE), str(source), "-o", str(work)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True), work, library


def _key(source: Path, *, compiler: str) -> str:
    digest = hashlib.sha256()
    for file in (source, *sorted(INCLUDE.glob("*.h"))):
        digest.update(file.read_bytes())
    digest.update("\0".join((*_FLAGS, *_cpu_flags(), _version(compiler))).encode())
    return digest.hexdigest()[:16]


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


@cache
def _cpu_flags() -> tuple[str, ...]:
    """Options for the instructions that this processor has."""
    if platform.machine() != "x86_64":
        return ("-mcpu=native",)
    return tuple(option for features, option in _X86_OPTIONS if features <= cpu_features())


@cache
def cpu_features() -> frozenset[str]:
    """What Linux says that the processor has: avx512f, amx_bf16; nothing where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())
