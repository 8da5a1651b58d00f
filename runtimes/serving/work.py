"""The seam between the scheduler and the generated program: chunks of tokens go in, logits come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one generation, to be computed in one step.

    Their keys and values go to positions `start`, `start + 1`, … of KV slot `slot`; everything before `start` is already
    there. A step holds at most one chunk a slot.
    """

    slot: int
    start: int
    tokens: list[int]
    needs_logits: bool  # the logits after the last token are wanted


class Runner(Protocol):
    """The model side of a server, generated into serve.py. Only the engine's thread calls it."""

    def step(self, work: Sequence[Chunk]) -> Any:
        """Compute all chunks; logits as a float32 tensor [chunks with needs_logits, V], in their order."""
        ...
