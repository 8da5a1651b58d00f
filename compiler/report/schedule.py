"""Pipeline schedules played out: which rank runs which micro-batch when.

`orders` says in which order each rank runs its passes; `play` starts each as soon as its rank is free and what it needs is
there. A test holds the idle time to the formulas of cost/pipeline.py.

    F(m, s) needs F(m, s−1)     B(m, s) needs F(m, s) and B(m, s+1)     W(m, s) needs B(m, s)

F forward, B backward, W the part of it that computes gradients of weights, where a schedule puts it off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..cost.pipeline import Schedule

Kind = Literal["F", "B", "W"]


class Pass(NamedTuple):
    """One piece of work. `B` includes its W unless a `W` of the same follows in the order."""

    kind: Kind
    micro_batch: int
    stage: int
    route: int = 0
    """DualPipe without a V sends half of the micro-batches the other way round: 1."""


@dataclass(frozen=True)
class Block:
    """A pass with its place in time, in the unit of the given times."""

    rank: int
    work: Pass
    start: float
    end: float
    splits: bool
    """Whether the backward pass leaves its weights' gradients for later."""


Order = list[Pass]


def orders(schedule: Schedule, *, ranks: int, micro_batches: int, virtual: int) -> list[Order]:
    """What each rank does, in order. ValueError where a schedule is not defined for these numbers."""
    if ranks == 1:
        return [[Pass(kind, m, 0) for m in range(micro_batches) for kind in ("F", "B")]]
    if schedule == "gpipe":
        return [_gpipe(rank, micro_batches) for rank in range(ranks)]
    if schedule == "interleaved_1f1b" and virtual > 1:
        if micro_batches % ranks:
            raise ValueError(f"interleaving goes in rounds of {ranks} micro-batches; there are {micro_batches}")
        return [_interleaved(rank, ranks, micro_batches, virtual) for rank in range(ranks)]
    if schedule == "zero_bubble":
        return [_zero_bubble(rank, ranks, micro_batches) for rank in range(ranks)]
    if schedule == "dualpipe":
        return _dualpipe(ranks, micro_batches, is_v=virtual == 2)
    return [_one_f_one_b(rank, ranks, micro_batches) for rank in range(ranks)]


def _gpipe(rank: int, m: int) -> Order:
    return [Pass("F", i, rank) for i in range(m)] + [Pass("B", i, rank) for i in range(m)]


def _one_f_one_b(rank: int, ranks: int, m: int) -> Order:
    """Fill with P−1−p forward passes, then one of each (Narayanan 2021a)."""
    ahead = min(ranks - rank - 1, m)
    order = [Pass("F", i, rank) for i in range(ahead)]
    for i in range(m):
        if ahead + i < m:
            order.append(Pass("F", ahead + i, rank))
        order.append(Pass("B", i, rank))
    return order


def _interleaved(rank: int, ranks: int, m: int, virtual: int) -> Order:
    """Chunks take turns every P micro-batches (Narayanan 2021b)."""
    total = m * virtual
    ahead = min(2 * (ranks - rank - 1) + (virtual - 1) * ranks, total)

    def work(kind: Kind, index: int) -> Pass:
        turn, place = divmod(index, ranks)
        chunk = turn % virtual if kind == "F" else virtual - 1 - turn % virtual
        return Pass(kind, turn // virtual * ranks + place, chunk * ranks + rank)

    order = [work("F", index) for index in range(ahead)]
    for index in range(total):
        if ahead + index < total:
            order.append(work("F", ahead + index))
        order.append(work("B", index))
    return order


def _zero_bubble(rank: int, ranks: int, m: int) -> Order:
    """ZB-H1 (Qi 2024): 1F1B with W of each micro-batch put off by as many as the rank's number, which fills the end."""
    order: Order = []
    late = 0
    for work in _one_f_one_b(rank, ranks, m):
        order.append(work)
        if work.kind == "B" and work.micro_batch >= rank:
            order.append(Pass("W", late, rank))
            late += 1
    return order + [Pass("W", i, rank) for i in range(late, m)]


def _dualpipe(ranks: int, m: int, *, is_v: bool) -> list[Order]:
    """The eight steps of DeepSeek's DualPipe and DualPipeV; two streams of micro-batches meet on every rank."""
    places = ranks if is_v else ranks // 2
    each = m if is_v else m // 2  # micro-batches of a stream
    if (not is_v and (ranks % 2 or m % 2)) or each < (2 * places):
        raise ValueError(
            f"DualPipe over {ranks} ranks needs {4 * places if not is_v else 2 * places} micro-batches; there are {m}"
        )
    return [_DualPipeRank(rank, ranks, m, is_v=is_v).order() for rank in range(ranks)]


class _DualPipeRank:
    """Counts what one rank has run of its two streams, 0 and 1."""

    def __init__(self, rank: int, ranks: int, m: int, *, is_v: bool) -> None:
        self.rank, self.ranks, self.is_v = rank, ranks, is_v
        self.places = ranks if is_v else ranks // 2
        self.at = rank if is_v else min(rank, ranks - 1 - rank)
        self.each = m if is_v else m // 2
        self.is_mirrored = not is_v and rank >= ranks // 2
        self.done = {("F", 0): 0, ("F", 1): 0, ("B", 0): 0, ("B", 1): 0}
        self.late: list[Pass] = []
        self.found: Order = []

    def order(self) -> Order:
        before = self.places - self.at - 1
        self._run(2 * before, "F0")
        self._run(self.at + 1, "F0 F1")
        self._run(before, "b1 W F1")
        middle = self.each - 2 * self.places + self.at + 1
        self._run(middle, "F0 B1 F1 B0")
        self._run(before, "B1 F1 B0")
        half = (self.at + 1) // 2
        self._run(self.at + 1 - half, "B1 B0")
        self._run(half, "b1 b0")
        self._run(before, "W b0")
        self._run(self.at + 1, "W")
        self.found += self.late
        return self.found

    def _run(self, times: int, words: str) -> None:
        for _ in range(times):
            for word in words.split():
                self._step(word)

    def _step(self, word: str) -> None:
        if word == "W":
            if self.late:
                self.found.append(self.late.pop(0))
            return
        kind: Kind = "F" if word[0] == "F" else "B"
        stream = int(word[1])
        count = self.done[kind, stream]
        if count == self.each:
            return
        self.done[kind, stream] += 1
        work = self._pass(kind, stream, count)
        self.found.append(work)
        if word[0] == "b":
            self.late.append(work._replace(kind="W"))

    def _pass(self, kind: Kind, stream: int, count: int) -> Pass:
        if self.is_v:
            stage = self.rank if stream == 0 else 2 * self.ranks - 1 - self.rank
            return Pass(kind, count, stage)
        route = stream ^ int(self.is_mirrored)
        stage = self.rank if route == 0 else self.ranks - 1 - self.rank
        return Pass(kind, count, stage, route)


def play(
    found: Sequence[Order], *, forward: Sequence[float], backward: Sequence[float], virtual: int = 1
) -> list[Block]:
    """Every pass as early as its order allows. `forward` and `backward` are of all stages of a rank, backward with W."""
    last = max(work.stage for order in found for work in order)
    ends: dict[Pass, float] = {}
    free, at = [0.0] * len(found), [0] * len(found)
    split = [{work._replace(kind="B") for work in order if work.kind == "W"} for order in found]
    blocks: list[Block] = []
    total = sum(len(order) for order in found)
    while len(blocks) < total:
        num_before = len(blocks)
        for rank, order in enumerate(found):
            while at[rank] < len(order):
                work = order[at[rank]]
                ready = _ready(work, last, ends)
                if ready is None:
                    break
                start = max(free[rank], ready)
                splits = work in split[rank]
                size = forward[rank] if work.kind == "F" else backward[rank]
                size = size / virtual * (0.5 if splits or work.kind == "W" else 1.0)
                ends[work] = free[rank] = start + size
                blocks.append(Block(rank, work, start, start + size, splits))
                at[rank] += 1
        if len(blocks) == num_before:
            raise ValueError("the schedule waits for itself")
    return blocks


def _ready(work: Pass, last: int, ends: dict[Pass, float]) -> float | None:
    """When what a pass needs is there; None if that is not known yet."""
    needs = [ends.get(each) for each in _needs(work, last)]
    return None if any(end is None for end in needs) else max((end for end in needs if end is not None), default=0.0)


def _needs(work: Pass, last: int) -> Iterator[Pass]:
    if work.kind == "F":
        if work.stage > 0:
            yield work._replace(stage=work.stage - 1)
        return
    if work.kind == "W":
        yield work._replace(kind="B")
        return
    yield work._replace(kind="F")
    if work.stage < last:
        yield work._replace(stage=work.stage + 1)


def idle_s(blocks: Sequence[Block], *, rank: int) -> float:
    """From the first pass of any rank to the last, what a rank does not use."""
    whole = max(block.end for block in blocks) - min(block.start for block in blocks)
    return whole - sum(block.end - block.start for block in blocks if block.rank == rank)


def shown_micro_batches(schedule: Schedule, *, ranks: int, micro_batches: int, virtual: int, at_most: int) -> int:
    """As many micro-batches as make `at_most` blocks, in whole rounds; the middle of a step repeats."""
    kinds = 3 if schedule in ("zero_bubble", "dualpipe") else 2
    room = max(1, at_most // (ranks * virtual * kinds))
    if micro_batches <= room:
        return micro_batches
    least = 4 * ranks if schedule == "dualpipe" else 2 * ranks
    rounds = max(least, room - room % ranks) if ranks > 1 else room
    return min(micro_batches, rounds)
