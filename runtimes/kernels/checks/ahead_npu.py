"""Compile the Triton kernels of a build for Ascend NPUs that are not here, and tell what each takes of the unified buffer.

    python -m llmc.runtimes.kernels.checks.ahead_npu BUILD_DIR TARGET   -> one JSON object a line, a kernel each

Runs beside triton-ascend and ascendnpu-ir (`make setup-npu`): Triton becomes linalg, and that the compiler's memory-planned IR. The last
step, from there to the core's instructions, is hivmc's, which comes with CANN alone; in its place stands a script that keeps what it was given.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from triton._C.libtriton import ir  # type: ignore[attr-defined]
from triton.backends.ascend import compiler as ascend  # type: ignore[import-not-found]
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .. import gpu
from .ahead import Start, rows_like, starts_of
from .build_folder import described

_IN_PLACE_OF_HIVMC = """#!/bin/sh
if [ "$1" = "--version" ]; then echo "hivmc 1.2.0"; fi
for each in "$@"; do if [ -f "$each" ]; then cp "$each" "$(dirname "$0")/planned.mlir"; fi; done
"""
_OPTIONS = (
    "--enable-auto-multi-buffer=true",
    "--enable-auto-bind-sub-block=true",
    "--enable-auto-blockify-loop",  # as gpu.BLOCKS_IN_TURNS asks for
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
)
"""As triton-ascend 3.2.0 calls the compiler, of which each is a default there."""
_BITS = {"i1": 1, "i8": 8, "i16": 16, "bf16": 16, "f16": 16, "i32": 32, "f32": 32, "i64": 64}


def compiled(start: Start, target: str) -> dict[str, Any]:
    """Seconds, bytes of the unified buffer, whether loads run ahead; or what the compiler said against it."""
    started_s = time.perf_counter()
    try:
        linalg = _linalg(start, target)
    except Exception as fault:  # whatever a compiler ends with
        said = fault.stderr if isinstance(fault, subprocess.CalledProcessError) else str(fault)
        said = said.decode() if isinstance(said, bytes) else str(said)
        return {"seconds": time.perf_counter() - started_s, "fault": " ".join(said.split())[-300:]}
    with tempfile.TemporaryDirectory() as scratch:
        said, planned = _planned(linalg, target, Path(scratch))
    report: dict[str, Any] = {"seconds": time.perf_counter() - started_s}
    if planned is not None:
        is_single = "set enable-auto-multi-buffer to false" in said
        return report | {
            "shared_bytes": unified_buffer_bytes(planned),
            "status": "one buffer" if is_single else "two buffers",
        }
    overflow = re.search(r"ub overflow, requires (\d+) bits", said)
    if overflow is not None:
        return report | {"shared_bytes": int(overflow[1]) // 8, "status": "too large"}
    return report | {"fault": " ".join(said.split())[-300:]}


def _linalg(start: Start, target: str) -> str:
    """What triton-ascend makes of a kernel."""
    npu = GPUTarget("npu", target, 0)
    backend = ascend.AscendBackend(npu)
    options = backend.parse_options({})
    source = ASTSource(start.kernel, start.signature, constants=dict(start.constants))  # type: ignore[call-arg]
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    helpers = backend.get_codegen_implementation(), backend.get_module_map()
    module = source.make_ir(options, *helpers, context)  # type: ignore[call-arg]  # of another Triton than this environment's
    metadata = {"hash": "", **options.__dict__, "target": npu}
    module = ascend.make_ttir(module, metadata, options)
    text = ascend.ttir_to_linalg(module, metadata, options, named_ops=True)
    return ascend._parse_linalg_metadata(text, metadata)[0]


def _planned(linalg: str, target: str, folder: Path) -> tuple[str, str | None]:
    """What the compiler says, and its IR with every buffer in its place; None where it gives none."""
    tool = folder / "hivmc"
    tool.write_text(_IN_PLACE_OF_HIVMC, encoding="utf-8")
    tool.chmod(0o755)
    (folder / "kernel.mlir").write_text(linalg, encoding="utf-8")
    done = subprocess.run(
        [_compiler(), folder / "kernel.mlir", f"--target={target}", *_OPTIONS, "-o", folder / "kernel"],
        env=os.environ | {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        check=False,
    )
    found = folder / "planned.mlir"
    is_planned = done.returncode == 0 and found.exists()
    return done.stdout + done.stderr, found.read_text(encoding="utf-8") if is_planned else None


def _compiler() -> Path:
    spec = importlib.util.find_spec("ascendnpuir")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "bishengir-compile"


def unified_buffer_bytes(planned: str) -> int:
    """Up to the end of the last buffer: `pointer_cast(%c4096_i64) : memref<64x32xf32, #hivm.address_space<ub>>`."""
    places = re.findall(r"pointer_cast\(%c(\d+)_i64[^)]*\) : memref<((?:\d+x)*)(\w+), [^\n]*address_space<ub>", planned)
    ends = [0]
    for offset, dims, dtype in places:
        count = 1
        for size in dims.split("x")[:-1]:
            count *= int(size)
        ends.append(int(offset) + -(-count * _BITS[dtype] // 8))
    return max(ends)


def main() -> None:
    folder, target = Path(sys.argv[1]).resolve(), sys.argv[2]
    torch.set_num_threads(1)
    gpu.is_interpreted = lambda: True  # tensors of this machine's CPU are taken; nothing is run on them
    build = described(folder)
    for kernel in build["kernels"]:
        if kernel["language"] != "triton":
            continue
        for start in starts_of(kernel, folder, rows=rows_like(build["seq_len"])):
            row = {
                "kernel": kernel["name"],
                "function": start.kernel.__name__,
                "chip": target,
                "dtype": kernel["dtype"],
            }
            print(json.dumps(row | compiled(start, target)), flush=True)


if __name__ == "__main__":
    main()
