"""Play the cheapest layouts before one is chosen.

The sweep's closed forms rank layouts; percentiles of a stated workload come from the server's own scheduler on a virtual clock
(serve_simulation.py). A finalist that misses the objective there gives way to itself with one replica more, or to the next one.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import TYPE_CHECKING

from .serve_search import Candidate, candidate_of, cost_of, judged
from .serve_simulation import simulate_layout

if TYPE_CHECKING:
    from ...spec.serving import Serve
    from .serve_search import ServeSearch

MAX_PLAYED = 8
"""Simulations a plan may take."""

UNPLAYED = "has stages that the model fits without: held to the objective in closed form only"


def play_finalists(found: ServeSearch, asked: Serve) -> None:
    """Put the cheapest layout that holds the objective in simulation at the head of `good`; those that do not, among `bad`."""
    if asked.workload is None or not found.good:
        return
    unstaged = {each.shape.weights for each in found.good if each.shape.pp == 1}
    contenders = [each for each in found.good if each.shape.pp == 1 or each.shape.weights not in unstaged]
    spectators = [
        each for each in found.good if each not in contenders
    ]  # stages where the model fits without: told, not played
    waiting = [(cost_of(each, asked), place, each) for place, each in enumerate(contenders)]
    heapq.heapify(waiting)
    number, failed = len(waiting), []
    for _ in range(MAX_PLAYED):
        if not waiting:
            break
        _, _, candidate = heapq.heappop(waiting)
        played = judged(played_out(candidate, asked), asked)
        if played.reason is None:
            rest = [each for _, _, each in sorted(waiting, key=lambda entry: entry[:2])]
            dearer = [each for each in spectators if each.devices >= played.devices]
            found.good = [played, *sorted([*rest, *dearer], key=lambda each: cost_of(each, asked))]
            unplayed = [replace(each, reason=UNPLAYED, binding="pp") for each in spectators if each not in dearer]
            found.bad = [*failed, *unplayed, *found.bad]
            return
        failed.append(played)
        more = _one_more(candidate, asked)
        if more is not None:
            number += 1
            heapq.heappush(waiting, (cost_of(more, asked), number, more))
    found.good = []
    found.bad = [*sorted(failed, key=lambda each: -each.devices), *found.bad]


def played_out(candidate: Candidate, asked: Serve) -> Candidate:
    """The candidate with percentiles of a simulation."""
    assert candidate.service is not None
    seen = simulate_layout(
        candidate.engine,
        asked,
        candidate.load,
        candidate.service,
        max_batch=candidate.max_batch,
        chunk=candidate.prefill_chunk,
        kv_tokens=candidate.kv_tokens,
    )
    return candidate if seen is None else replace(candidate, service=seen.service, simulated_requests=seen.requests)


def _one_more(candidate: Candidate, asked: Serve) -> Candidate | None:
    """The same shape with a replica more (a sixteenth more of many), where there is room for it."""
    replicas = candidate.replicas + max(1, candidate.replicas // 16)
    if asked.layout.replicas or replicas * candidate.shape.devices > candidate.engine.machine.num_devices:
        return None
    more = candidate_of(asked, candidate.engine, replicas=replicas)
    return more if more.reason is None else None
