"""The stages of a served model: each has some of the layers, and hands what it made of a step's tokens on to the next.

Ranks of a stage are neighbours. Those of the last stage come first: rank 0, which has the server, then has the head, and samples
where it is. The first stage gets its tokens with the steps, so nothing goes back.
"""

from __future__ import annotations

from collections import deque

import torch
import torch.distributed as dist
from torch import Tensor

from .mesh import Axis

_UNDERWAY = 4
"""Messages that a rank leaves behind before it waits for the first of them to be taken."""


def neighbours(world: Axis, *, size: int) -> Axis:
    """The ranks in runs of so many: the run of this one. All ranks call this."""
    runs = [dist.new_group(range(first, first + size)) for first in range(0, world.size, size)]
    group = runs[world.rank // size]
    assert isinstance(group, dist.ProcessGroup)
    return Axis(group, world.rank % size, size)


class Stage:
    """The stage of this rank; each rank talks to its counterparts in the stages before and after."""

    def __init__(self, world: Axis, *, count: int, width: int, dtype: torch.dtype, device: str = "cpu") -> None:
        size = world.size // count
        self._before, self._after = world.rank + size, world.rank - size
        self.number = count - 1 - world.rank // size
        self.is_first, self.is_last = self.number == 0, self.number == count - 1
        self._width, self._dtype, self._device = width, dtype, device
        self._sent: deque[tuple[Tensor, dist.Work]] = deque()

    def receive(self, batch: int, length: int) -> Tensor:
        """Hidden states [B, T, D] from the stage before."""
        x = torch.empty(batch, length, self._width, dtype=self._dtype, device=self._device)
        dist.recv(x, self._before)
        return x

    def hand_on(self, x: Tensor) -> None:
        """Hidden states [B, T, D] to the next stage, if there is one; does not wait until they are taken."""
        if self.is_last:
            return
        x = x.contiguous()
        work = dist.isend(x, self._after)
        assert work is not None
        self._sent.append((x, work))
        while len(self._sent) > _UNDERWAY:
            self._sent.popleft()[1].wait()
