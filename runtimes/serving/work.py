"""The seam between the scheduler and the generated program: chunks of tokens go in, logits come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .generation import Generation, Sampled


class Chunk(NamedTuple):
    """Consecutive tokens of one generation, to be computed in one step.

    They stand at positions `start`, `start + 1`, … of their sequence, whose keys and values lie in `blocks`: position p in
    block `blocks[p // block_tokens]`. Everything before `start` is already there. There may be blocks for later tokens.
    A step holds at most one chunk a generation.
    """

    blocks: list[int]
    start: int
    tokens: list[int]
    needs_logits: bool  # the logits after the last token are wanted

    @property
    def end(self) -> int:
        """Tokens of the sequence after this step."""
        return self.start + len(self.tokens)


class Runner(Protocol):
    """The model side of a server, generated into serve.py. Only the engine's thread calls it."""

    def step(self, work: Sequence[Chunk]) -> Any:
        """Compute all chunks; logits as a float32 tensor [chunks with needs_logits, V], in their order."""
        ...


@runtime_checkable
class StagedRunner(Runner, Protocol):
    """One whose model is a pipeline: while the last stage computes a step, those before it are at later ones."""

    def begin(self, work: Sequence[Chunk]) -> None:
        """Have the first stage begin with a step. `step` is then called with each, in the same order."""
        ...


class TokenSampler(Protocol):
    """Logits to tokens."""

    def sample(self, logits: Any, generations: list[Generation]) -> list[Sampled | None]:
        """One token for each row; None where the model gave no usable numbers."""
        ...
