"""Drawing tokens from scores on the device.

Fuses    temperature -> softmax -> top-k -> top-p -> min-p -> draw: one program a row, without sorting.
Applies  to the servers of GPUs in serving.py; others draw with PyTorch's ops (runtimes/serving/sampler.py).
Cost     a row: reads V scores four times, and 15 times more for each of top-k and top-p that it asks for, from a cache: in place of sorting,
         the least weight that is kept is found bit by bit.
Truth    runtimes/reference/sampling.py: draw
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel import Kernel
from .tiles import RowTile, long_row

if TYPE_CHECKING:
    from .chips import Chip


@dataclass(frozen=True, kw_only=True)
class Sampling(Kernel):
    vocab_size: int
    tiles: RowTile

    @property
    def python_side(self) -> str:
        return f"ops/{self.template}"

    @property
    def fuses(self) -> str:
        return "temperature, softmax, top-k, top-p, min-p, draw"

    @property
    def price(self) -> str:
        return "scores sorted and summed in twenty steps, for each token"


def choose_sampling(*, vocab_size: int, chip: Chip, chip_name: str) -> Sampling:
    return Sampling(
        name="sampling",
        template="sampling",
        dtype="fp32",
        language="triton",
        chip=chip_name,
        has_backward=False,
        vocab_size=vocab_size,
        tiles=long_row(vocab_size, chip),
    )
