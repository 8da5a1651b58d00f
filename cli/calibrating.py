"""`llmc doctor --calibrate FILE`: this machine measured, as an entry that specs extend."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import FINE, WRONG_USAGE

if TYPE_CHECKING:
    from ..runtimes.pytorch.calibrate import Calibration

MANY_ROWS, WEIGHT_SIZE = 128, 1536
WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
"""Of the measured products, as runtimes/pytorch/calibrate.py has them; a test compares."""

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
    print("measuring, about fifteen seconds")
    found = calibrate()
    text = calibration_text(
        found, file=file.name, torch=torch.__version__, processor=_processor(), memory_gib=_memory_gib()
    )
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


def calibration_text(found: Calibration, *, file: str, torch: str, processor: str, memory_gib: float) -> str:
    """YAML whose every figure says how it was measured."""
    peaks = ", ".join(f"{name}: {rate / 1e12:.3g}" for name, rate in found.flops_per_s.items())
    rates = "\n".join(_rate(name, found) for name in found.products)
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
"""


def _rate(name: str, found: Calibration) -> str:
    """A format's line: times as shares of what this machine could do."""
    times = found.products[name]
    launch_s = times.launch_s
    flops, size = 2 * MANY_ROWS * WEIGHT_SIZE**2, WEIGHT_BYTES[name] * WEIGHT_SIZE**2
    compute = flops / max(times.many_rows_s - launch_s, 1e-9) / found.flops_per_s[name]
    memory = size / max(times.one_row_s - launch_s, 1e-9) / found.read_bytes_per_s
    return f"      {name}: {{compute: {min(compute, 2):.2f}, memory: {min(memory, 2):.2f}, launch_us: {launch_s * 1e6:.1f}}}"


def _processor() -> str:
    from .checking import cpu_model

    return "".join(character if character.isprintable() else "?" for character in cpu_model())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
