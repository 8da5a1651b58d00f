"""The fused loss never holds more than one chunk of logits: measured on storages, forward with gradients."""

from __future__ import annotations

from typing import Any

import gpu_samples
import kernel_samples
import pytest
import torch
from kernel_workshop import Workshop
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.compiler.kernels.linear_cross_entropy import LinearCrossEntropy
from llmc.runtimes.pytorch.dryrun.memory import LiveBytes

TOKENS, VOCAB, CHUNK, SIZE = 1024, 4003, 64, 8
KERNELS: list[LinearCrossEntropy] = [
    kernel_samples.linear_cross_entropy("bf16", vocab_size=VOCAB, chunk=CHUNK, hidden_size=SIZE),
    gpu_samples.linear_cross_entropy("bf16", vocab_size=VOCAB, chunk=CHUNK, hidden_size=SIZE),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.language)
def test_one_chunk_of_logits_at_a_time(kernel: Any, workshop: Workshop) -> None:
    function = workshop.make(kernel).linear_cross_entropy
    memory = LiveBytes()
    with FakeTensorMode():
        hidden = torch.empty(TOKENS, SIZE, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(VOCAB, SIZE, dtype=torch.bfloat16, requires_grad=True)
        targets = torch.zeros(TOKENS, dtype=torch.int64)
        with memory.counting():
            function(hidden, weight, targets).backward()
    chunk, whole = CHUNK * VOCAB * 2, TOKENS * VOCAB * 2
    of_weight, of_rows = VOCAB * SIZE * (4 + 2 + 2), TOKENS * (4 * SIZE + 4 + 8)
    beside = of_weight + of_rows + 1024  # gradients in fp32 and cast, losses, targets; a few numbers
    assert chunk <= memory.peak <= chunk + beside
    assert memory.peak < whole / 8
