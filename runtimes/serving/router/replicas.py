"""Which replica gets the next request. Pure bookkeeping: no sockets, no clock of its own, so that it can be tested step by step.

A replica is asked while its own probe says that it is ready and its circuit is closed. Of those the ones that hold the beginning
of the prompt come first, unless they have much more to do than the others; then who has least to do.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

LOAD_FACTOR = 1.25
"""Requests that a replica may have, over the mean, before a prompt that it knows goes elsewhere (bounded loads,
arXiv:1608.01350)."""
FAILURES = 3
"""Answers of a ready replica that fail in a row until its circuit opens."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

State = Literal["ready", "out", "stuck"]
"""out: it says so, or nobody listens; stuck: it does not answer."""


class Breaker:
    """Opens after failures in a row; then lets one request through after a pause, which doubles each time that it fails."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._closes_s = 0.0
        self._has_trial = False

    def admits(self, now_s: float) -> bool:
        if self._failures < FAILURES:
            return True
        return now_s >= self._closes_s and not self._has_trial

    def begin(self) -> None:
        """A request is sent."""
        self._has_trial = self._failures >= FAILURES

    def abandon(self) -> None:
        """It ended, and nothing was learned: the client went away."""
        self._has_trial = False

    def succeed(self) -> None:
        self._failures, self._pause_s, self._has_trial = 0, FIRST_PAUSE_S, False

    def fail(self, now_s: float) -> None:
        self._failures += 1
        self._has_trial = False
        if self._failures < FAILURES:
            return
        if self._failures > FAILURES:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._closes_s = now_s + self._pause_s

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES


@dataclass(eq=False)
class Replica:
    """A server as the router sees it."""

    number: int
    url: str
    probe_url: str
    state: State = "out"
    load: int = 0  # requests on their way
    turn: int = 0  # when it was last chosen
    breaker: Breaker = field(default_factory=Breaker)


class Prefixes:
    """Which replicas have seen the beginning of a prompt: digests of its pieces, each chained to those before it.

    What is not asked for is forgotten first; that a replica has dropped it from its cache meanwhile costs a computation and no more.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._holders: OrderedDict[bytes, int] = OrderedDict()  # digest -> a bit for each replica
        self._most = most

    def add(self, digests: Sequence[bytes], replica: Replica) -> None:
        for digest in digests:
            self._holders[digest] = self._holders.pop(digest, 0) | 1 << replica.number
        while len(self._holders) > self._most:
            self._holders.popitem(last=False)

    def holders(self, digests: Sequence[bytes], among: Sequence[Replica]) -> list[Replica]:
        """Those that hold the most of it; none if nobody holds anything."""
        for digest in reversed(digests):
            bits = self._holders.get(digest, 0)
            if found := [replica for replica in among if bits >> replica.number & 1]:
                return found
        return []

    def forget(self, replica: Replica) -> None:
        """It has begun anew, with an empty cache."""
        for digest in self._holders:
            self._holders[digest] &= ~(1 << replica.number)


class Replicas:
    """All of them, and the choice."""

    def __init__(self, replicas: Sequence[Replica], *, prefixes: Prefixes | None = None) -> None:
        self.all = tuple(replicas)
        self.prefixes = prefixes
        self._turn = 0

    def able(self, now_s: float) -> list[Replica]:
        return [each for each in self.all if each.state == "ready" and each.breaker.admits(now_s)]

    def pick(self, digests: Sequence[bytes], *, without: Collection[Replica], now_s: float) -> Replica | None:
        """The replica for a request, or None if nobody is left."""
        able = [each for each in self.able(now_s) if each not in without]
        if not able:
            return None
        bound = math.ceil(LOAD_FACTOR * (sum(each.load for each in able) + 1) / len(able))
        calm = [each for each in able if each.load < bound]
        known = self.prefixes.holders(digests, among=calm) if self.prefixes is not None else []
        return min(known or calm, key=lambda each: (each.load, each.turn))

    def begin(self, replica: Replica, digests: Sequence[bytes]) -> None:
        """A request goes to a replica."""
        self._turn += 1
        replica.turn = self._turn
        replica.load += 1
        replica.breaker.begin()
        if self.prefixes is not None:
            self.prefixes.add(digests, replica)

    def end(self, replica: Replica) -> None:
        """It has come back, or it never will."""
        replica.load -= 1

    def restarted(self, replica: Replica) -> None:
        replica.breaker = Breaker()
        if self.prefixes is not None:
            self.prefixes.forget(replica)
