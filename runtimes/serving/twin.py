"""A server without a model: steps take as long as somebody says they would, tokens are random. All else is the server's own.

With the cost model's times this shows what a client would see of hardware that is not here; with times measured elsewhere it
is a stand-in for load tests. Needs no framework.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

from .generation import Generation, Sampled
from .simulation import StagesBefore, StepTime
from .work import Chunk


class TwinRunner:
    """Sleeps through each step. What a step overslept is taken off the next one that follows at once."""

    def __init__(self, step_time: StepTime, *, speed: float = 1.0) -> None:
        self._step_time = step_time
        self._speed = speed
        self._end_s = 0.0

    def step(self, work: Sequence[Chunk]) -> list[Chunk]:
        now_s = time.monotonic()
        took_s = self._step_time([(len(chunk.tokens), chunk.start) for chunk in work]) / self._speed
        is_next = now_s - self._end_s < took_s
        began_s = self._end_s if is_next else now_s
        self._end_s = began_s + took_s
        time.sleep(max(0.0, self._end_s - now_s))
        return [chunk for chunk in work if chunk.needs_logits]


class StagedTwinRunner:
    """The same of a model in stages: sleeps until a step has passed those before the last, and that one."""

    def __init__(self, step_time: StepTime, *, num_stages: int, speed: float = 1.0) -> None:
        self._step_time = step_time
        self._num_stages = num_stages
        self._speed = speed
        self._before = StagesBefore(num_stages)
        self._begun: deque[tuple[float, float]] = deque()  # when each reaches the last stage, and what it takes there
        self._end_s = 0.0

    def begin(self, work: Sequence[Chunk]) -> None:
        took_s = self._step_time([(len(chunk.tokens), chunk.start) for chunk in work]) / self._speed
        share_s = took_s / self._num_stages
        self._begun.append((self._before.passed(time.monotonic(), share_s=share_s), share_s))

    def step(self, work: Sequence[Chunk]) -> list[Chunk]:
        reaches_s, share_s = self._begun.popleft()
        self._end_s = max(self._end_s, reaches_s) + share_s
        time.sleep(max(0.0, self._end_s - time.monotonic()))
        return [chunk for chunk in work if chunk.needs_logits]


class TwinSampler:
    """Every token is as likely as every other, but for those that end an answer: lengths are what was asked for."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def sample(self, logits: Sequence[Chunk], generations: list[Generation]) -> list[Sampled | None]:
        return [self._one(generation) for generation in generations]

    def _one(self, generation: Generation) -> Sampled:
        token = generation.rng.randrange(self.num_tokens)
        while token in generation.eos and len(generation.eos) < self.num_tokens:
            token = generation.rng.randrange(self.num_tokens)
        wants_logprob = generation.sampling.num_logprobs is not None
        return Sampled(token, -math.log(self.num_tokens) if wants_logprob else None)
