"""`llmc doctor`: versions, what this machine has, and which commands work here."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from .faults import FINE

PACKAGES = ("llmc-compiler", "pydantic", "ruamel.yaml", "networkx", "jinja2", "torch", "safetensors", "tokenizers",
            "starlette", "uvicorn", "triton", "torch-xla", "torch-npu")  # fmt: skip
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
TRAINING = ("torch", "safetensors", "tokenizers", "matplotlib", "tensorboard")
SERVING = ("torch", "safetensors", "tokenizers", "starlette", "uvicorn", "prometheus_client")


def examine() -> int:
    print("versions")
    _row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        _row(name, _version(name) or "not installed")
    print("\nmachine")
    _row("processor", f"{cpu_model()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores for this process")
    flags = _cpu_flags()
    _row("instructions", ", ".join(flag for flag in CPU_FLAGS if flag in flags) or "none of the known ones")
    _row("memory", _memory())
    _row("C++ compiler", shutil.which("c++") or shutil.which("g++") or "none: eager PyTorch in place of generated C++")
    _row("NVIDIA driver", "present" if Path("/proc/driver/nvidia/version").exists() else "none")
    print("\nwhat works here")
    _row("llmc plan, build", "yes")
    _row("llmc run train", _works(TRAINING, extra="torch"))
    _row("llmc run serve", _works(SERVING, extra="torch,serve"))
    return FINE


def _row(name: str, value: str) -> None:
    print(f"  {name:<18} {value}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _works(modules: tuple[str, ...], *, extra: str) -> str:
    """Looks for packages without importing them."""
    missing = [name for name in modules if find_spec(name) is None]
    return f"no: {', '.join(missing)} not installed (pip install 'llmc-compiler[{extra}]')" if missing else "yes"


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown processor"


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags").split())


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "unknown"
    return f"{total / 1024**3:.1f} GiB"
