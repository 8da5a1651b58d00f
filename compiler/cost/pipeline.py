"""Pipeline schedules: idle time, micro-batches in flight, and how layers fall onto stages.

F, B: seconds of a forward and a backward pass of one micro-batch through one rank's layers; W: the part of B that
computes gradients of weights. P ranks, m micro-batches, v virtual stages a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..planner.layout import Layout

Schedule = Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe"]


def bubble_s(
    schedule: Schedule, *, ranks: int, micro_batches: int, virtual: int, forward_s: float, backward_s: float
) -> float:
    """Seconds a rank idles in a step.

    GPipe and 1F1B (P−1)(F+B) (Huang 2019, Narayanan 2021a); interleaved the same over v (Narayanan 2021b); zero-bubble
    (P−1)(F+B−2W) (Qi 2024); DualPipe (P/2−1)(F&B + B − 3W) with F&B = F + B (DeepSeek-V3), where in a V (two stages a rank, v = 2)
    the 2P stages take half as long each: (P−1)/2. Interleaved pays an extra round when m is no multiple of P.
    """
    if ranks == 1:
        return 0.0
    weight_s = backward_s / 2
    whole = forward_s + backward_s
    if schedule == "interleaved_1f1b":
        left_over = (-micro_batches) % ranks
        return (ranks - 1) * whole / virtual + left_over * whole / virtual
    if schedule == "zero_bubble":
        return (ranks - 1) * max(0.0, whole - 2 * weight_s)
    if schedule == "dualpipe":
        rounds = (ranks - 1) / 2 if virtual == 2 else ranks / 2 - 1
        return max(0.0, rounds * (whole + backward_s - 3 * weight_s))
    return (ranks - 1) * whole


def sends_of_fill(layout: Layout) -> int:
    """Sends that nothing hides while a pipeline fills, and again while it drains.

    In a round of P micro-batches through interleaved stages the first one is back at a rank just when the last has left it: every
    send on its way is waited for, once a stage of each rank.
    """
    rounds = layout.virtual_stages - 1 if layout.schedule == "interleaved_1f1b" else 0
    return layout.pp - 1 + rounds * layout.pp


def in_flight(schedule: Schedule, *, rank: int, ranks: int, micro_batches: int, virtual: int) -> float:
    """Micro-batches whose activations rank number `rank` holds at once, in units of all of its layers.

    GPipe m; 1F1B min(m, P−p), zero-bubble the same (ZB-H1, Qi 2024); interleaved (2(P−p−1) + (v−1)P + 1)/v, for the first rank
    P times 1 + (P−1)/(P·v) (Narayanan 2021b); DualPipe P + 1.
    """
    if schedule == "gpipe":
        return float(micro_batches)
    if schedule == "dualpipe":
        return float(min(micro_batches, ranks + 1))
    held = float(min(micro_batches, ranks - rank))
    if schedule == "interleaved_1f1b" and virtual > 1:
        chunks = 2 * (ranks - rank - 1) + (virtual - 1) * ranks + 1
        return min(float(micro_batches), chunks / virtual)
    return held


def most_held(weights: Sequence[float], *, rank: int, ranks: int, micro_batches: int) -> float:
    """The most that a rank holds in interleaved 1F1B, where the c-th of its stages keeps weights[c] of a micro-batch.

    Forward passes go through the stages in rounds of P micro-batches, backward passes the other way round, 2(P−p−1) + (v−1)P
    passes behind.
    """
    virtual = len(weights)
    passes = micro_batches * virtual
    behind = min(passes, 2 * (ranks - rank - 1) + (virtual - 1) * ranks)
    held = most = 0.0
    for number in range(passes + behind):
        if number < passes:
            held += weights[number // ranks % virtual]
            most = max(most, held)
        if number >= behind:
            held -= weights[virtual - 1 - (number - behind) // ranks % virtual]
    return most


def even_stages(num_layers: int, *, stages: int) -> tuple[int, ...]:
    """Layers of each stage; the first ones take what does not divide."""
    least, extra = divmod(num_layers, stages)
    return tuple(least + (1 if stage < extra else 0) for stage in range(stages))


def rank_of_stage(stage: int, *, ranks: int, is_v: bool) -> int:
    """Stages in order lie on the ranks in rounds; in a V (DualPipe) every other round comes back."""
    turn, place = divmod(stage, ranks)
    return ranks - 1 - place if is_v and turn % 2 else place


@dataclass(frozen=True)
class Stage:
    number: int
    layers: range
    has_embed: bool
    has_head: bool


def stages_of_rank(layout: Layout, *, num_layers: int, rank: int) -> tuple[Stage, ...]:
    """The stages of one rank; without a pipeline the whole model is one."""
    sizes = layout.stages or even_stages(num_layers, stages=layout.pp * layout.virtual_stages if layout.pp > 1 else 1)
    last, found, start = len(sizes) - 1, [], 0
    for number, size in enumerate(sizes):
        if rank_of_stage(number, ranks=layout.pp, is_v=layout.schedule == "dualpipe") == rank:
            layers = range(start, start + size)
            found.append(Stage(number, layers, has_embed=number == 0, has_head=number == last))
        start += size
    return tuple(found)


def layers_of_ranks(layout: Layout, *, num_layers: int) -> list[list[int]]:
    """The layers of each rank."""
    stages = layout.stages or even_stages(num_layers, stages=layout.pp * layout.virtual_stages)
    layers: list[list[int]] = [[] for _ in range(layout.pp)]
    start = 0
    for stage, size in enumerate(stages):
        rank = rank_of_stage(stage, ranks=layout.pp, is_v=layout.schedule == "dualpipe")
        layers[rank].extend(range(start, start + size))
        start += size
    return layers
