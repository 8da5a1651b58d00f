"""Who owns which part of the KV cache. Here a part is a slot: room for one whole sequence.

The scheduler knows only `acquire`, `release` and the counts. Paged blocks will be a second class with these names, whose
`acquire` looks at the tokens (to find a cached prefix) and may be asked to grow.
"""

from __future__ import annotations

import heapq


class KVSlots:
    """`num_slots` rows of `max_seq_len` tokens each; the lowest free row is given out first, so batches stay compact."""

    def __init__(self, num_slots: int, *, max_seq_len: int) -> None:
        self.num_slots = num_slots
        self.max_seq_len = max_seq_len
        self._free = list(range(num_slots))  # a heap
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self._used)

    def acquire(self) -> int | None:
        """A slot nobody else has, or None."""
        if not self._free:
            return None
        slot = heapq.heappop(self._free)
        self._used.add(slot)
        return slot

    def release(self, slot: int) -> None:
        self._used.remove(slot)  # a KeyError here is a slot released twice: our bug
        heapq.heappush(self._free, slot)
