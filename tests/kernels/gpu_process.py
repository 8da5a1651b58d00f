"""Triton kernels in the interpreter, in a process of their own, which reads a kind of kernel and a folder a line.

Of each it prints one JSON object a line: a case with its error, then each planted bug and whether it was caught; then an empty line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_samples as samples
import torch
from gpu_bugs import BUGS, Bug
from kernel_samples import DTYPES
from kernel_workshop import Workshop

from llmc.compiler.kernels.described import sizes_of
from llmc.compiler.kernels.kernel import DType, Kernel
from llmc.runtimes.kernels.checks.cases import cases_of
from llmc.runtimes.kernels.checks.interpreter import repair
from llmc.runtimes.kernels.checks.rule import Found, compare

Sample = tuple[Kernel, tuple[int, ...]]
"""A kernel and the numbers of rows to try it on."""


def samples_of(kind: str, dtype: DType) -> Iterator[Sample]:
    if kind == "add_norm":
        for hidden_size in (7, 64, 100):
            yield samples.add_norm(dtype, hidden_size=hidden_size), (1, 5)
            yield samples.add_norm(dtype, hidden_size=hidden_size, is_layer=True, has_bias=True), (1, 5)
        in_turns = samples.add_norm(dtype, hidden_size=100, unit_offset=True, stream_dtype=dtype)
        yield small(in_turns, num_programs=2), (5,)  # each program takes several rows
        yield samples.add_norm(dtype, hidden_size=100, is_layer=True, stream_dtype=dtype), (5,)
    if kind == "gated":
        for eager in ("swiglu", "geglu_tanh"):
            yield samples.gated(dtype, eager=eager, size=5), (1, 7)
            yield samples.gated(dtype, eager=eager, size=1100), (3,)
    if kind == "causal_attention":
        yield samples.causal_attention(dtype), (1, 65, 150)
        yield samples.causal_attention(dtype, num_kv_heads=4, head_dim=16, window=20), (7, 150)
        yield samples.causal_attention(dtype, num_heads=3, num_kv_heads=1, head_dim=48, has_rope=False), (7, 70)
        yield samples.causal_attention(dtype, num_heads=2, num_kv_heads=1, head_dim=128, window=70), (150,)
        yield samples.causal_attention(dtype, head_dim=16, softcap=3.0, window=20), (64, 70)
        yield samples.causal_attention(dtype, head_dim=80, rotary_dims=20, interleaved=True), (70,)
    if kind == "linear_cross_entropy":
        yield samples.linear_cross_entropy(dtype), (1, 64, 150)
        yield samples.linear_cross_entropy(dtype, vocab_size=5003, z_loss=1e-2), (7,)
        yield samples.linear_cross_entropy(dtype, has_bias=True), (7,)
        yield samples.linear_cross_entropy(dtype, vocab_size=5003, softcap=3.0, z_loss=1e-2), (7,)
    if kind == "decode_attention":
        few = {"splits": 2, "keys": 16}  # of what the interpreter goes through one after the other
        yield small(samples.decode_attention(dtype), **few), (1, 40)
        yield small(samples.decode_attention(dtype, num_heads=7, num_kv_heads=1, head_dim=48, window=20), **few), (50,)
        partial = {"head_dim": 16, "rotary_dims": 8, "interleaved": True, "softcap": 3.0}
        yield small(samples.decode_attention(dtype, num_kv_heads=4, **partial), **few), (17,)
        yield small(samples.decode_attention(dtype, has_rope=False), **few), (33,)
    if kind == "weight_only_linear":
        yield samples.weight_only_linear(dtype, bits=8, group=64), (3, 20)
        yield samples.weight_only_linear(dtype, bits=4, group=32, has_offset=True), (1, 20)
        yield samples.weight_only_linear(dtype, bits=4, group=64), (20,)
        yield samples.weight_only_linear(dtype, bits=4, group=128, has_bias=False), (3,)
    if kind == "choose_experts" and dtype == "fp32":
        yield samples.choose_experts(), (1, 5)
        yield samples.choose_experts(num_experts=8, per_token=1, normalize=False), (5,)
        yield samples.choose_experts(score="sigmoid", scale=2.5, has_bias=True), (5,)
    if kind == "expert_linear":
        yield samples.expert_linear(dtype), (1, 40)
        yield samples.expert_linear(dtype, num_experts=2), (150,)
    if kind == "sampling" and dtype == "fp32":
        yield samples.sampling(vocab_size=37), (15,)
        yield samples.sampling(vocab_size=5003), (5,)
    if kind == "adamw":
        yield samples.adamw(dtype), (1, 64)


def small(kernel: Any, **tiles: int) -> Any:
    """The same kernel in smaller blocks."""
    return replace(kernel, tiles=replace(kernel.tiles, **tiles))


def right(kind: str, workshop: Workshop) -> Iterator[dict[str, Any]]:
    for dtype in DTYPES:
        for kernel, rows in samples_of(kind, dtype):
            for name, found in tried(kernel, workshop, rows=rows):
                yield {
                    "case": f"{kernel.name} {dtype}: {name}, {found.what}",
                    "holds": found.holds,
                    "error": found.error,
                }


def tried(kernel: Kernel, workshop: Workshop, *, rows: tuple[int, ...], **options: Any) -> Iterator[tuple[str, Found]]:
    module = workshop.make(kernel, **options)
    for case in cases_of(sizes_of(kernel), module, rows=rows):
        for found in compare(case.function, case.eager, case.inputs, eps=case.eps):
            yield case.name, found


def bugs(kind: str, workshop: Workshop) -> Iterator[dict[str, Any]]:
    for bug in BUGS[kind]:
        yield {"bug": bug[2].strip(), "became": bug[3].strip(), "is_caught": is_caught(bug, workshop)}


def is_caught(bug: Bug, workshop: Workshop) -> bool:
    kernel, rows, stands, instead = bug

    def plant(text: str) -> str:
        assert stands in text, f"the kernel has changed, plant another bug than {stands!r}"
        return text.replace(stands, instead)

    return not all(found.holds for _, found in tried(kernel, workshop, rows=(rows,), edit=plant))


def main() -> None:
    torch.set_num_threads(1)
    repair()
    for line in sys.stdin:
        kind, folder = json.loads(line)
        workshop = Workshop(Path(folder))
        for row in (*right(kind, workshop), *bugs(kind, workshop)):
            print(json.dumps(row))
        print(flush=True)


if __name__ == "__main__":
    main()
