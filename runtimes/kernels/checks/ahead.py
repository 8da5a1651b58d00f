"""Compile the Triton kernels of a build for chips that are not here, and tell what each takes.

    python -m llmc.runtimes.kernels.checks.ahead BUILD_DIR [--chips sm_90 ...]   -> one JSON object a line, a kernel and chip each

The functions that model.py calls are called on small tensors, forward and backward, and each start of a kernel is caught in place of
being run: its argument types, constants, options, and which arguments are multiples of 16, just as Triton's JIT would see them. In a
process without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from .. import gpu
from .build_folder import described, module_of
from .cases import cases_of
from .rule import run

_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
}
_LAUNCH_OPTIONS = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg", "waves_per_eu", "matrix_instr_nonkdim"})


@dataclass(frozen=True)
class Start:
    """One start of a kernel, as the compiler needs it."""

    kernel: JITFunction
    signature: dict[str, str]
    constants: dict[str, Any]
    multiples_of_16: tuple[str, ...]
    options: dict[str, Any]

    @property
    def key(self) -> str:
        return repr((self.kernel.__name__, self.signature, self.constants, self.multiples_of_16, self.options))


@contextmanager
def caught_starts() -> Iterator[list[Start]]:
    """Starts of kernels are noted and do not happen."""
    starts: list[Start] = []
    run = JITFunction.run

    def note(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        starts.append(start_of(self, args, kwargs))

    JITFunction.run = note  # type: ignore[method-assign]
    try:
        yield starts
    finally:
        JITFunction.run = run  # type: ignore[method-assign]


def start_of(kernel: JITFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Start:
    """What the JIT would specialise on."""
    options = {name: value for name, value in kwargs.items() if name in _LAUNCH_OPTIONS}
    named = dict(zip(kernel.arg_names, args, strict=False)) | {
        name: value for name, value in kwargs.items() if name not in _LAUNCH_OPTIONS
    }
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    multiples: list[str] = []
    for parameter in kernel.params:
        name, value = parameter.name, named[parameter.name]
        is_any = parameter.do_not_specialize
        is_one = isinstance(value, int) and not isinstance(value, bool) and value == 1 and not is_any
        if parameter.is_constexpr or value is None or is_one:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            multiples.append(name)  # what PyTorch allocates is aligned
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            multiples += [name] if value % 16 == 0 and not is_any else []
        else:
            signature[name] = "fp32"
    return Start(kernel, signature, constants, tuple(multiples), options)


def compiled(start: Start, chip: str) -> dict[str, Any]:
    """Seconds, registers, spills, shared memory; or what the compiler said against it."""
    names = start.kernel.arg_names
    source = ASTSource(
        fn=start.kernel,
        signature=start.signature,
        constexprs=dict(start.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in start.multiples_of_16},
    )
    started_s = time.perf_counter()
    try:
        kernel = triton.compile(source, target=target_of(chip), options=dict(start.options))
    except Exception as fault:  # whatever a compiler ends with
        return {"seconds": time.perf_counter() - started_s, "fault": " ".join(str(fault).split())[-300:]}
    seconds = time.perf_counter() - started_s
    report = (
        amd_report(kernel.asm["amdgcn"])
        if chip.startswith("gfx")
        else nvidia_report(kernel.asm["cubin"], kernel.asm["ptx"])
    )
    return {"seconds": seconds, "shared_bytes": kernel.metadata.shared, **report}


def target_of(chip: str) -> GPUTarget:
    if chip.startswith("gfx"):
        return GPUTarget("hip", chip, 64)
    return GPUTarget("cuda", int(chip.removeprefix("sm_")), 32)


def amd_report(assembly: str) -> dict[str, int]:
    """From the metadata that stands at the end of the assembly."""

    def figure(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        return int(found[1]) if found else 0

    # Scalar registers that are short move into lanes of vector registers, which takes no memory.
    spilled = max(4 * figure("vgpr_spill_count"), figure("private_segment_fixed_size"))
    return {"registers": figure("vgpr_count"), "spill_bytes": spilled}


def nvidia_report(cubin: bytes, ptx: str) -> dict[str, int]:
    """Registers and stack from the machine code; spills from what the assembler says of the same PTX."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    found = re.search(r"\.target (sm_(\d+)\w*)", ptx)
    assert found is not None
    assembler = tools / ("ptxas-blackwell" if int(found[2]) >= 100 else "ptxas")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "kernel.ptx").write_text(ptx, encoding="utf-8")
        (folder / "kernel.cubin").write_bytes(cubin)
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", folder / "kernel.cubin")
        said = _output(assembler, "-v", f"-arch={found[1]}", folder / "kernel.ptx", "-o", folder / "again.cubin")
    resources = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert resources is not None, usage
    spilled = sum(int(each) for each in re.findall(r"(\d+) bytes spill (?:stores|loads)", said))
    stack = int(resources[2])  # 8 bytes are there in some kernels of which the assembler says that nothing spills
    return {"registers": int(resources[1]), "spill_bytes": max(spilled, stack if stack > 8 else 0)}


def _output(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def starts_of(kernel: Mapping[str, Any], folder: Path, *, rows: int) -> list[Start]:
    """Every kernel that the program starts for one description, with and without gradients; each once. Those of servers are started for
    a single row, and for many an expert, too, which some have other blocks for."""
    counts = [rows] if kernel.get("has_backward", True) else [1, rows]
    counts += [64 * kernel["num_experts"]] if "num_experts" in kernel else []
    with caught_starts() as starts:
        for case in cases_of(kernel, module_of(folder, kernel["name"]), rows=counts):
            run(case.function, case.inputs)
            with torch.no_grad():
                case.function(*case.inputs)
    return list({start.key: start for start in starts}.values())


def rows_like(tokens: int) -> int:
    """Few rows that specialise a kernel as `tokens` would: multiples of 16 make other code than odd numbers."""
    return min(tokens, 64 if tokens % 16 == 0 else 63)


def main() -> None:
    parser = argparse.ArgumentParser(prog="ahead")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--chips", nargs="*", default=[], help="sm_90, gfx942, ...; by default the one that the build is for"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.folder.resolve()
    build = described(folder)
    gpu.is_interpreted = lambda: True  # tensors of this machine's CPU are taken; nothing is run on them
    chips = args.chips or [build["chip"]["target"]]
    for kernel in build["kernels"]:
        if kernel["language"] != "triton":
            continue
        starts = starts_of(kernel, folder, rows=rows_like(build["seq_len"]))
        for start in starts:
            for chip in chips:
                with contextlib.redirect_stdout(io.StringIO()):  # compilers say a good deal
                    report = compiled(start, chip)
                row = {
                    "kernel": kernel["name"],
                    "function": start.kernel.__name__,
                    "chip": chip,
                    "dtype": kernel["dtype"],
                }
                print(json.dumps(row | {"options": start.options} | report), flush=True)


if __name__ == "__main__":
    main()
