"""Who waits, in order: higher priority first, then who came first."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator

from .generation import Generation


class WaitingLine:
    """A queue for each priority; adding, looking at the head and taking it cost the same however many wait."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[Generation]] = {}
        self._priorities: list[int] = []  # ascending: the head's is the last
        self._length = 0
        self.num_tokens = 0  # to be computed before the first of each

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Generation]:
        for priority in reversed(self._priorities):
            yield from self._queues[priority]

    @property
    def head(self) -> Generation:
        return self._queues[self._priorities[-1]][0]

    def add(self, generation: Generation) -> None:
        self._queue(generation.priority).append(generation)
        self._count(generation, 1)

    def put_back(self, generation: Generation) -> None:
        """In front of its priority: it came before all that wait there."""
        self._queue(generation.priority).appendleft(generation)
        self._count(generation, 1)

    def remove(self, generation: Generation) -> None:
        queue = self._queues[generation.priority]
        if queue[0] is generation:
            queue.popleft()
        else:
            queue.remove(generation)
        if not queue:
            del self._queues[generation.priority]
            self._priorities.remove(generation.priority)
        self._count(generation, -1)

    def _queue(self, priority: int) -> deque[Generation]:
        if priority not in self._queues:
            self._queues[priority] = deque()
            insort(self._priorities, priority)
        return self._queues[priority]

    def _count(self, generation: Generation, sign: int) -> None:
        self._length += sign
        self.num_tokens += sign * len(generation.tokens)
