"""Pallas kernels in their interpreter, in torch-xla's environment: python pallas_process.py (right | bugs) FOLDER

Prints one JSON object a line: a case with its error, or a planted bug and whether it was caught. Started by test_pallas.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))

import pallas_samples as samples
import torch
from kernel_workshop import Workshop
from pallas_bugs import BUGS, Bug

from llmc.compiler.kernels.described import sizes_of
from llmc.compiler.kernels.kernel import DType, Kernel
from llmc.compiler.kernels.tpus import TPUS
from llmc.runtimes.kernels.checks.cases import cases_of
from llmc.runtimes.kernels.checks.rule import Found, compare

Sample = tuple[Kernel, tuple[int, ...]]
"""A kernel and the numbers of tokens to try it on."""
DTYPES: tuple[DType, ...] = ("fp32", "bf16")


def samples_of(dtype: DType) -> Iterator[Sample]:
    yield samples.add_norm(dtype, hidden_size=100), (700,)
    yield samples.add_norm(dtype, hidden_size=256, unit_offset=True), (7,)
    yield samples.add_norm(dtype, hidden_size=7, is_layer=True, has_bias=True), (700,)
    yield samples.add_norm(dtype, hidden_size=100, is_layer=True), (5,)
    yield samples.causal_attention(dtype, longest=128), (2, 300)
    yield samples.causal_attention(dtype, num_heads=3, num_kv_heads=1, head_dim=128), (150,)
    yield samples.causal_attention(dtype, longest=128, num_heads=2, head_dim=128, window=140, softcap=3.0), (300,)
    yield samples.causal_attention(dtype, head_dim=80), (70,)
    yield samples.decode_attention(dtype, longest=48), (2, 130)
    two_cores = samples.decode_attention(
        dtype, tpu=TPUS["v5p"], num_heads=6, head_dim=128, longest=32, window=40, softcap=3.0
    )
    yield two_cores, (130,)


def right(workshop: Workshop) -> Iterator[dict[str, Any]]:
    for dtype in DTYPES:
        for kernel, rows in samples_of(dtype):
            for name, found in tried(kernel, workshop, rows=rows):
                said = f"{kernel.name} {dtype}: {name}, {found.what}"
                yield {"case": said, "holds": found.holds, "error": found.error, "allowed": found.allowed}


def tried(kernel: Kernel, workshop: Workshop, *, rows: tuple[int, ...], **options: Any) -> Iterator[tuple[str, Found]]:
    module = workshop.make(kernel, **options)
    for case in cases_of(sizes_of(kernel), module, rows=rows):
        for found in compare(case.function, case.eager, case.inputs, eps=case.eps):
            yield case.name, found


def bugs(workshop: Workshop) -> Iterator[dict[str, Any]]:
    for bug in BUGS:
        yield {"bug": bug[2].strip(), "became": bug[3].strip(), "is_caught": is_caught(bug, workshop)}


def is_caught(bug: Bug, workshop: Workshop) -> bool:
    kernel, rows, stands, instead = bug

    def plant(text: str) -> str:
        assert stands in text, f"the kernel has changed, plant another bug than {stands!r}"
        return text.replace(stands, instead)

    return not all(found.holds for _, found in tried(kernel, workshop, rows=(rows,), edit=plant))


def main() -> None:
    what, folder = sys.argv[1:]
    torch.set_num_threads(1)
    for row in {"right": right, "bugs": bugs}[what](Workshop(Path(folder))):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
