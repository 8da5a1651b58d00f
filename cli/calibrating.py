"""`llmc doctor --calibrate FILE`: this machine measured, as an entry that specs extend.

What PyTorch does is measured in this process; what servers with kernels do, of little programs that are built for it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import FINE, WRONG_USAGE
from .measuring_servers import BY_THEMSELVES, DEEP, SHALLOW, KernelTimes, Stretch, measure_kernels, measure_stretch

if TYPE_CHECKING:
    from ..runtimes.pytorch.calibrate import Calibration, ProductTimes

MANY_ROWS, WEIGHT_SIZE = 128, 1536
WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
KERNEL_BYTES = {"bf16": 12 / 8, "int8": 8.125 / 8, "int4": 4.125 / 8}
"""Of the measured products, PyTorch's as runtimes/pytorch/calibrate.py has them, and those of kernels; tests compare."""

HEAD = """\
# This machine, measured by `llmc doctor --calibrate`: torch {torch}, {threads} {words}, {processor}.
# In a spec: `extends: {file}`. Measure on an idle machine, and again when it changes.
"""


def write_calibration(file: Path) -> int:
    try:
        import torch

        from ..runtimes.pytorch.calibrate import calibrate
    except ImportError as error:
        print(f"llmc doctor --calibrate: {error} (pip install 'llmc-compiler[torch]')", file=sys.stderr)
        return WRONG_USAGE
    print("measuring PyTorch, about fifteen seconds", flush=True)
    found = calibrate()
    kernels = measure_kernels(found)
    of_machine = {"file": file.name, "torch": torch.__version__, "processor": _processor(), "memory_gib": _memory_gib()}
    text = calibration_text(found, **of_machine, kernels=kernels)
    if kernels is not None:
        kernels = replace(kernels, stretch=measure_stretch(text, kernels))
        text = calibration_text(found, **of_machine, kernels=kernels)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"llmc doctor --calibrate: {file} cannot be written: {error.strerror}", file=sys.stderr)
        return WRONG_USAGE
    print(text, end="")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: the load is {load:.1f}: others use this machine, and the figures are too low", file=sys.stderr)
    return FINE


def calibration_text(
    found: Calibration,
    *,
    file: str,
    torch: str,
    processor: str,
    memory_gib: float,
    kernels: KernelTimes | None = None,
) -> str:
    """YAML whose every figure says how it was measured."""
    peaks = ", ".join(f"{name}: {rate / 1e12:.3g}" for name, rate in found.flops_per_s.items())
    rates = "\n".join(f"      {name}: {_rate(name, times, found)}" for name, times in found.products.items())
    words = "thread" if found.threads == 1 else "threads"
    head = HEAD.format(torch=torch, threads=found.threads, words=words, processor=processor, file=file)
    return f"""{head}hardware:
  accelerator:
    like: cpu
    memory_gib: {memory_gib:.1f}  # MemTotal
    memory_gb_s: {found.read_bytes_per_s / 1e9:.1f}  # torch sums 256 MiB of fp32
    peak_tflops: {{{peaks}}}  # torch multiplies matrices of 1024 x 1024
    intra_node: {{link: shared memory, gb_s: {found.copied_bytes_per_s / 2e9:.1f}, domain: 1}}  # half of what torch copies
    products:  # torch.nn.functional.linear with weights of 1536 x 1536: of 128 rows, of one, and with nothing to compute
{rates}
    op_us: {found.op_s * 1e6:.2f}  # torch adds to 16 numbers
{"" if kernels is None else _kernels(kernels, found)}"""


def _kernels(kernels: KernelTimes, found: Calibration) -> str:
    rates = "\n".join(
        f"        {name}: {_rate(name, times, found, launch_s=kernels.launch_s, stretch=kernels.stretch)}"
        for name, times in kernels.products.items()
    )
    attention = kernels.attention_flops_per_s / found.flops_per_s["bf16"] / kernels.stretch.computing
    return f"""\
    kernels:  # of servers with nothing to compute, of {SHALLOW} and {DEEP} layers: a token of an answer that is alone
      step_us: {kernels.step_s * 1e6:.1f}  # without any layer, over HTTP, with the client on this machine
      layer_us: {kernels.layer_s * 1e6:.1f}  # each layer more
      request_us: {kernels.request_s * 1e6:.1f}  # each answer more in a step
      first_token_us: {kernels.first_token_s * 1e6:.1f}  # over HTTP, beside the step
      attention: {min(attention, 2):.2f}  # of a prompt of 512 tokens, the pairs that are seen
      products:  # as above, with the kernels of linear layers, as layers start them. In a server of 100M parameters reading takes {kernels.stretch.reading:.2f} times as long, and arithmetic {kernels.stretch.computing:.2f}: both are in here
{rates}
"""


def _rate(
    name: str,
    times: ProductTimes,
    found: Calibration,
    *,
    launch_s: float | None = None,
    stretch: Stretch = BY_THEMSELVES,
) -> str:
    """A format's line: times as shares of what this machine could do. `launch_s` is that of a step, for kernels that a step records."""
    alone_s, peak = times.launch_s, found.flops_per_s["fp32" if name == "fp32" else "bf16"]
    flops, weights = 2 * WEIGHT_SIZE**2, WEIGHT_SIZE**2
    if launch_s is None:
        size = WEIGHT_BYTES[name] * weights
        row_s, read_s = (times.many_rows_s - alone_s) / MANY_ROWS, times.one_row_s - alone_s
    else:  # a kernel reads a weight, and then each row takes its time
        size = KERNEL_BYTES[name] * weights
        row_s = (times.many_rows_s - times.one_row_s) / (MANY_ROWS - 1)
        read_s = times.one_row_s - alone_s - row_s
    compute = flops / max(row_s, 1e-9) / peak / stretch.computing
    memory = size / max(read_s, 1e-9) / found.read_bytes_per_s / stretch.reading
    return f"{{compute: {min(compute, 2):.2f}, memory: {min(memory, 2):.2f}, launch_us: {(launch_s or alone_s) * 1e6:.1f}}}"


def _processor() -> str:
    from .checking import cpu_model

    return "".join(character if character.isprintable() else "?" for character in cpu_model())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
