"""Steps of a server on Ascend as graphs: captured once for each batch, and then started by one call in the place of hundreds.

What a graph reads and writes stays where it is: inputs are copied to the memory of the first ones. Lengths of sequences are arguments of
torch-npu's attention on the host; `update` gives its ops in the graph new ones, and each `replay` waits for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]
"""Tokens [B, 1], positions [B, 1], blocks [B, N] and lengths [B] -> hidden states [B, D]."""


@dataclass(frozen=True)
class _Captured:
    graph: Any
    """Of torch.npu, which this torch knows beside torch-npu alone."""
    inputs: tuple[Tensor, Tensor, Tensor]
    output: Tensor


class Graphs:
    def __init__(self, step: Step, *, device: str = "npu") -> None:
        self._step = step
        self._device = device
        self._captured: dict[int, _Captured] = {}
        self._pool: object = None

    def capture(self, tokens: Tensor, positions: Tensor, blocks: Tensor, lengths: list[int]) -> None:
        """A graph for so many sequences. Inputs lie on the host. Graphs share memory: one runs at a time."""
        npu = torch.get_device_module("npu")
        inputs = (tokens.to(self._device), positions.to(self._device), blocks.to(self._device))
        self._step(*inputs, lengths)  # what is made at a first call is not to be captured
        graph = npu.NPUGraph()
        with npu.graph(graph, pool=self._pool, auto_dispatch_capture=True):
            output = self._step(*inputs, lengths)
        self._pool = self._pool or graph.pool()
        self._captured[len(tokens)] = _Captured(graph, inputs, output)

    def __call__(self, tokens: Tensor, positions: Tensor, blocks: Tensor, lengths: list[int]) -> Tensor:
        """What the step gives; it is there until the next call."""
        captured = self._captured[len(tokens)]
        for own, new in zip(captured.inputs, (tokens, positions, blocks), strict=True):
            own.copy_(new)
        captured.graph.update(cpu_update_input=[{"actual_seq_lengths_kv": lengths}])
        captured.graph.replay()
        return captured.output
