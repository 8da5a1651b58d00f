"""`llmc verify --kernels`: every generated kernel of a build against float64, and compiled for the chip that the build is for.

Two processes, since Triton is either interpreted or compiles: runtimes/kernels/checks/numerics.py and ahead.py; for Ascend, whose
Triton is another package, ahead_npu.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..kernels.described import LISTED
from ..kernels.tpus import TPUS
from . import tpu_kernels
from .environments import has_triton_ascend, triton_ascend_variables

Progress = Callable[[str], None]
NOT_EXECUTED = "nothing here ran on a GPU: kernels were interpreted on this machine's CPU, and compiled for the chip"
NOT_ON_NPUS = (
    "nothing here ran on an NPU: kernels were interpreted on this machine's CPU, and compiled as far as memory is planned; the last"
    " step, to instructions, is hivmc's, which comes with CANN alone, and their speed is not known"
)
NOT_SET_UP = "Triton kernels compiled for Ascend: `make setup-npu` puts triton-ascend where this command finds it"


class KernelCheckError(Exception):
    """A check could not be run; the message says why."""


@dataclass(frozen=True)
class Numerics:
    """A kernel on inputs of one size; error and allowed are those of the output that is nearest to its limit."""

    kernel: str
    case: str
    language: str
    what: str
    error: float
    allowed: float
    holds: bool


@dataclass(frozen=True)
class Compiled:
    """One function of a kernel, compiled ahead of time."""

    kernel: str
    function: str
    chip: str
    dtype: str
    seconds: float
    registers: int
    registers_allowed: int
    spill_bytes: int
    shared_bytes: int
    shared_allowed: int
    fault: str = ""
    """What the compiler ended with, where it did."""
    memory: str = "shared memory"
    """What `shared_bytes` are called on this chip."""
    status: str = ""
    """Of NPUs: whether what is loaded ahead has a buffer of its own (`two buffers`)."""

    @property
    def holds(self) -> bool:
        return not self.fault and self.spill_bytes == 0 and self.shared_bytes <= self.shared_allowed

    @property
    def complaint(self) -> str:
        """What is wrong, with its figures; empty if nothing is."""
        if self.fault:
            return f"does not compile: {self.fault}"
        if self.shared_bytes > self.shared_allowed:
            return f"takes {self.shared_bytes:,} bytes of {self.memory}, of which {self.chip} has {self.shared_allowed:,} for a block"
        if self.spill_bytes:
            return f"spills {self.spill_bytes:,} bytes: its {self.registers} registers a thread do not hold what it works on"
        return ""


@dataclass(frozen=True)
class KernelVerdict:
    name: str
    numerics: tuple[Numerics, ...]
    compiled: tuple[Compiled, ...]
    left_alone: Mapping[str, str]
    unchecked: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return all(each.holds for each in (*self.numerics, *self.compiled))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "holds": self.holds,
            "numerics": [asdict(each) for each in self.numerics],
            "compiled": [{**asdict(each), "holds": each.holds} for each in self.compiled],
            "left_alone": dict(self.left_alone),
            "unchecked": list(self.unchecked),
        }


def verify_kernels(folder: Path, *, progress: Progress, name: str) -> KernelVerdict:
    """All kernels of a built folder. Raises KernelCheckError where a check cannot be run."""
    listed = folder / LISTED
    if not listed.exists():
        return KernelVerdict(name, (), (), {}, ("this program has no kernels",))
    build = json.loads(listed.read_text(encoding="utf-8"))
    if any(each["language"] == "pallas" for each in build["kernels"]):
        return verify_tpu_kernels(folder, build, progress=progress, name=name)
    has_triton = any(each["language"] == "triton" for each in build["kernels"])
    if has_triton and importlib.util.find_spec("triton") is None:
        raise KernelCheckError("Triton is not installed: pip install --no-deps triton==3.7.1")
    progress(f"{len(build['kernels'])} kernels against float64")
    environment = {"TRITON_INTERPRET": "1"} if has_triton else {}
    numerics = [_numerics(row) for row in _rows("numerics", folder, environment=environment)]
    compiled: tuple[Compiled, ...] = ()
    unchecked = (NOT_EXECUTED,) if has_triton else ()
    if has_triton and is_npu(build["chip"]):
        compiled, unchecked = compile_for_npus(folder, progress=progress)
    elif has_triton:
        progress(f"compiling for {build['chip']['name']}")
        compiled = tuple(compile_ahead(folder, build["chip"]))
    return KernelVerdict(name, tuple(numerics), compiled, build["left_alone"], unchecked)


def verify_tpu_kernels(folder: Path, build: Mapping[str, Any], *, progress: Progress, name: str) -> KernelVerdict:
    """Those of a program for TPUs."""
    if not tpu_kernels.is_set_up():
        return KernelVerdict(name, (), (), build["left_alone"], (tpu_kernels.NOT_SET_UP,))
    try:
        progress(f"{len(build['kernels'])} kernels against float64")
        numerics = tuple(_numerics(row) for row in tpu_kernels.interpreted(folder))
        progress(f"compiling for {build['chip']['name']}")
        compiled = tuple(compile_for_tpus(folder, [build["chip"]["target"]]))
    except tpu_kernels.TpuKernelError as fault:
        raise KernelCheckError(str(fault)) from fault
    return KernelVerdict(name, numerics, compiled, build["left_alone"], (tpu_kernels.NOT_ON_TPUS,))


def compile_for_tpus(folder: Path, targets: Sequence[str]) -> Iterator[Compiled]:
    """Every function of every Pallas kernel of a build, for these chips."""
    for row in tpu_kernels.compiled(folder, [TPUS[target] for target in targets]):
        allowed = TPUS[row["chip"]].vmem_bytes
        row["shared_bytes"] = row.pop("vmem_bytes", 0)
        yield _compiled(row, registers_allowed=0, shared_allowed=allowed, memory="VMEM")


def compile_for_npus(folder: Path, *, progress: Progress) -> tuple[tuple[Compiled, ...], tuple[str, ...]]:
    """The Triton kernels of a build for Ascend as far as they compile here, and what is left unchecked."""
    if not has_triton_ascend():
        return (), (NOT_ON_NPUS, NOT_SET_UP)
    chip = json.loads((folder / LISTED).read_text(encoding="utf-8"))["chip"]
    progress(f"compiling kernels for {chip['name']}")
    return tuple(compile_ahead(folder, chip)), (NOT_ON_NPUS,)


def npu_kernels(folder: Path) -> bool:
    """Whether a build has Triton kernels for Ascend."""
    listed = folder / LISTED
    if not listed.exists():
        return False
    build = json.loads(listed.read_text(encoding="utf-8"))
    return any(each["language"] == "triton" for each in build["kernels"]) and is_npu(build["chip"])


def compile_ahead(folder: Path, chip: Mapping[str, Any]) -> Iterator[Compiled]:
    """Every function of every Triton kernel of a build, for one chip as kernels.json has it."""
    with tempfile.TemporaryDirectory() as cache:  # so that the seconds are those of compiling
        environment = {"TRITON_CACHE_DIR": cache}
        if is_npu(chip):
            environment["PYTHONPATH"] = triton_ascend_variables()["PYTHONPATH"]
            rows = _rows("ahead_npu", folder, chip["target"], environment=environment)
        else:
            rows = _rows("ahead", folder, "--chips", chip["target"], environment=environment)
        for row in rows:
            yield _compiled(
                row,
                registers_allowed=chip["registers"],
                shared_allowed=chip["shared_bytes"],
                memory="unified buffer" if is_npu(chip) else "shared memory",
            )


def _compiled(row: Mapping[str, Any], **chip: Any) -> Compiled:
    """Of what a compiler told of a function; what it does not tell is nothing."""
    counts = {name: row.get(name, 0) for name in ("registers", "spill_bytes", "shared_bytes")}
    told = {name: row[name] for name in ("kernel", "function", "chip", "dtype", "seconds")}
    return Compiled(**told, **counts, **chip, fault=row.get("fault", ""), status=row.get("status", ""))


def is_npu(chip: Mapping[str, Any]) -> bool:
    return chip["target"].startswith("Ascend")


def _numerics(row: Mapping[str, Any]) -> Numerics:
    return Numerics(**{name: row[name] for name in Numerics.__dataclass_fields__})


def _rows(check: str, folder: Path, *args: str, environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    command: Sequence[str] = (
        sys.executable,
        "-W",
        "ignore",
        "-m",
        f"llmc.runtimes.kernels.checks.{check}",
        str(folder),
        *args,
    )
    inherited = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "LLMC_KERNELS")}
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelCheckError("\n".join(done.stderr.strip().splitlines()[-4:]))
    for line in done.stdout.splitlines():
        yield json.loads(line)
