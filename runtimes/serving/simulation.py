"""The scheduler on a virtual clock: what a server would do under a load, without a model.

The code that decides is the server's own (`scheduler.py`, `kv.py`); only the time of a step is told by the caller:

    report = simulate(poisson(4, num_requests=2000, lengths=fixed(512, 128)), limits, step_time)
    report.ttft.p99_s

Requests come, are queued or refused, and advance step by step as in `engine.py`: what comes while a step runs is planned in
the next one. One seed gives one trace of events, byte for byte.

Where layers are in stages, each takes an even share of a step's time, and waits for the stage before it and for the steps before. A
prompt then holds up the steps behind it in every stage that it passes: it costs others up to its whole time, not one stage's share.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .arrivals import Arrival, ClosedLoop
from .generation import Generation
from .kv import KVBlocks
from .prefix import PrefixBlocks
from .scheduler import Overloaded, Scheduler

StepTime = Callable[[Sequence[tuple[int, int]]], float]
"""Seconds of a step, from its chunks: (tokens in the step, tokens of the same request that are in the cache already)."""


@dataclass(frozen=True)
class Limits:
    """What the server may hold and admit."""

    max_batch: int
    """Requests that run at a time."""
    max_seq_len: int
    """Longest prompt and answer together, tokens."""
    prefill_chunk: int
    """Prompt tokens of a step."""
    kv_tokens: int | None = None
    """Room of the cache; None: as much as `max_batch` of the longest need."""
    block_tokens: int = 16
    prefix_cache: bool = False
    max_waiting: int | None = None
    """Requests that may wait; None: without bound."""
    max_waiting_tokens: int | None = None
    """Prompt tokens that may wait; None: without bound."""
    max_wait_steps: int | None = None
    """Who would wait for more steps is refused; None: however long."""
    stages: int = 1
    """Of the model's layers, each with a step of its own under way."""

    def scheduler(self) -> Scheduler:
        """A server's own, with these limits."""
        longest = -(-self.max_seq_len // self.block_tokens)
        num_blocks = self.max_batch * (longest + 1)
        if self.kv_tokens is not None:
            num_blocks = max(longest, self.kv_tokens // self.block_tokens)
        kind = PrefixBlocks if self.prefix_cache else KVBlocks
        endless = 2**62
        return Scheduler(
            kind(num_blocks, block_tokens=self.block_tokens),
            max_batch=self.max_batch,
            max_seq_len=self.max_seq_len,
            prefill_chunk=self.prefill_chunk,
            max_waiting=endless if self.max_waiting is None else self.max_waiting,
            max_waiting_tokens=endless if self.max_waiting_tokens is None else self.max_waiting_tokens,
            max_wait_steps=self.max_wait_steps,
            steps_under_way=self.stages,
        )


EventKind = Literal["arrive", "refuse", "first", "finish", "step"]


class Event(NamedTuple):
    """`number` is the request's; of a step, the tokens that it computes, and its time is when it begins."""

    time_s: float
    kind: EventKind
    number: int


@dataclass(slots=True)
class Outcome:
    """What became of one request. Times are None where it did not come so far."""

    arrived_s: float
    input_tokens: int
    output_tokens: int
    first_s: float | None = None
    finished_s: float | None = None
    is_refused: bool = False

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.arrived_s

    @property
    def e2e_s(self) -> float | None:
        return None if self.finished_s is None else self.finished_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Mean gap between the tokens of an answer that has more than one."""
        if self.first_s is None or self.finished_s is None or self.output_tokens < 2:
            return None
        return (self.finished_s - self.first_s) / (self.output_tokens - 1)


@dataclass(frozen=True)
class Percentiles:
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float

    @staticmethod
    def of(values: Iterable[float | None]) -> Percentiles:
        """NaN of nothing."""
        ordered = sorted(value for value in values if value is not None)
        if not ordered:
            nan = math.nan
            return Percentiles(nan, nan, nan, nan, nan, nan)
        mean = math.fsum(ordered) / len(ordered)
        at = [percentile(ordered, share) for share in (0.5, 0.9, 0.95, 0.99)]
        return Percentiles(mean, at[0], at[1], at[2], at[3], ordered[-1])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest values, by distance."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True)
class Report:
    """A simulation's figures. Percentiles are over the requests that finished."""

    outcomes: list[Outcome]
    trace: list[Event]
    duration_s: float
    num_steps: int
    busy_s: float
    """Time within steps."""
    largest_batch: int
    """Chunks of the fullest step."""
    num_preempted: int
    """Times that a request had to give its room up and was computed again."""
    ttft: Percentiles
    tpot: Percentiles
    e2e: Percentiles

    @property
    def num_refused(self) -> int:
        return sum(outcome.is_refused for outcome in self.outcomes)

    @property
    def num_finished(self) -> int:
        return sum(outcome.finished_s is not None for outcome in self.outcomes)

    @property
    def requests_per_s(self) -> float:
        return self.num_finished / self.duration_s if self.duration_s else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        done = sum(outcome.output_tokens for outcome in self.outcomes if outcome.finished_s is not None)
        return done / self.duration_s if self.duration_s else 0.0

    def goodput_per_s(self, *, ttft_s: float | None = None, tpot_s: float | None = None) -> float:
        """Finished requests a second that kept both objectives."""
        good = [outcome for outcome in self.outcomes if keeps(outcome, ttft_s=ttft_s, tpot_s=tpot_s)]
        return len(good) / self.duration_s if self.duration_s else 0.0

    def fingerprint(self) -> str:
        """The trace as one number: equal between runs with one seed."""
        text = "\n".join(f"{event.time_s!r} {event.kind} {event.number}" for event in self.trace)
        return hashlib.sha256(text.encode()).hexdigest()


def keeps(outcome: Outcome, *, ttft_s: float | None, tpot_s: float | None) -> bool:
    """Whether a request finished within the objectives that are given."""
    if outcome.finished_s is None:
        return False
    is_first_late = ttft_s is not None and (outcome.ttft_s or 0.0) > ttft_s
    return not is_first_late and (tpot_s is None or (outcome.tpot_s or 0.0) <= tpot_s)


def simulate(load: Sequence[Arrival] | ClosedLoop, limits: Limits, step_time: StepTime) -> Report:
    """Play a load to its end. A request longer than `max_seq_len` is refused, as the API does."""
    source = _Clients(load) if isinstance(load, ClosedLoop) else _Queue(load)
    return _Run(limits.scheduler(), source, step_time).play()


class StagesBefore:
    """The stages before the last: each takes steps one after the other."""

    def __init__(self, num_stages: int) -> None:
        self._free_s = [0.0] * (num_stages - 1)

    def passed(self, began_s: float, *, share_s: float) -> float:
        """When a step that begins in the first stage, and takes `share_s` in each, reaches the last."""
        for stage, free_s in enumerate(self._free_s):
            began_s = self._free_s[stage] = max(began_s, free_s) + share_s
        return began_s


class _Queue:
    """Open loop: arrivals in order of time."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival.time_s)
        self._at = 0

    def next_s(self) -> float:
        return self._arrivals[self._at].time_s if self._at < len(self._arrivals) else math.inf

    def take(self) -> Arrival:
        self._at += 1
        return self._arrivals[self._at - 1]

    def done(self, time_s: float) -> None:
        """An open loop does not care."""


class _Clients:
    """Closed loop: who has an answer (or a refusal) sends the next request at once."""

    def __init__(self, load: ClosedLoop) -> None:
        self._requests = list(reversed(load.requests))
        self._ready_s = [0.0] * min(load.concurrency, len(self._requests))

    def next_s(self) -> float:
        return self._ready_s[-1] if self._ready_s else math.inf

    def take(self) -> Arrival:
        return Arrival(self._ready_s.pop(), *self._requests.pop())

    def done(self, time_s: float) -> None:
        if len(self._ready_s) < len(self._requests):
            self._ready_s.append(time_s)


@dataclass
class _Run:
    scheduler: Scheduler
    source: _Queue | _Clients
    step_time: StepTime
    now_s: float = 0.0
    busy_s: float = 0.0
    num_steps: int = 0
    largest_batch: int = 0
    before: StagesBefore = field(init=False)
    under_way: deque[tuple[float, float]] = field(default_factory=deque)
    """Of steps that are planned: when they reach the last stage, and the time that they take there."""
    outcomes: list[Outcome] = field(default_factory=list)
    trace: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = StagesBefore(self.scheduler.steps_under_way)

    def play(self) -> Report:
        while True:
            if not self.scheduler.has_work:
                self.now_s = max(self.now_s, self.source.next_s())
            if self.now_s == math.inf:
                break
            self._admit(until_s=self.now_s)
            has_stages = self.scheduler.steps_under_way > 1
            steps = 0 if has_stages else self.scheduler.steady_steps()
            if steps > 1:
                self._leap(steps)
            elif self.scheduler.has_work:
                self._step_of_stages() if has_stages else self._step()
        duration_s = max((outcome.finished_s or 0.0 for outcome in self.outcomes), default=0.0)
        return Report(
            outcomes=self.outcomes,
            trace=self.trace,
            duration_s=duration_s,
            num_steps=self.num_steps,
            busy_s=self.busy_s,
            largest_batch=self.largest_batch,
            num_preempted=self.scheduler.num_preempted,
            ttft=Percentiles.of(outcome.ttft_s for outcome in self.outcomes),
            tpot=Percentiles.of(outcome.tpot_s for outcome in self.outcomes),
            e2e=Percentiles.of(outcome.e2e_s for outcome in self.outcomes),
        )

    def _admit(self, *, until_s: float) -> None:
        while self.source.next_s() <= until_s:
            self._submit(self.source.take())

    def _submit(self, arrival: Arrival) -> None:
        number = len(self.outcomes)
        outcome = Outcome(arrival.time_s, arrival.input_tokens, arrival.output_tokens)
        self.outcomes.append(outcome)
        self.trace.append(Event(arrival.time_s, "arrive", number))
        shared = min(arrival.prefix_tokens, arrival.input_tokens)
        generation = Generation(
            tokens=[-1 - arrival.prefix] * shared + [number] * (arrival.input_tokens - shared),
            num_prompt=arrival.input_tokens,
            max_tokens=arrival.output_tokens,
            index=number,
            priority=arrival.priority,
        )
        try:
            self.scheduler.submit([generation])
        except (Overloaded, ValueError):  # the queue is full; or it is longer than the context
            outcome.is_refused = True
            self.trace.append(Event(arrival.time_s, "refuse", number))
            self.source.done(arrival.time_s)

    def _leap(self, steps: int) -> None:
        """Steps that are all alike, until somebody comes: only their times are worked out one by one."""
        starts = [generation.num_computed for generation in self.scheduler.running]
        done, next_s = 0, self.source.next_s()
        while done < steps and self.now_s < next_s:
            self._pass([(1, start + done) for start in starts], tokens=len(starts))
            done += 1
        self.scheduler.advance(done)

    def _pass(self, work: Sequence[tuple[int, int]], *, tokens: int) -> None:
        """The time of a step."""
        took_s = self.step_time(work)
        self.trace.append(Event(self.now_s, "step", tokens))
        self.now_s += took_s
        self.busy_s += took_s
        self.num_steps += 1
        self.largest_batch = max(self.largest_batch, len(work))

    def _step(self) -> None:
        work = [(len(chunk.tokens), chunk.start) for chunk in self.scheduler.step_plan()]
        self._pass(work, tokens=sum(tokens for tokens, _ in work))
        self._finish()

    def _step_of_stages(self) -> None:
        """As many steps under way as can be, then the end of the oldest."""
        while len(self.under_way) < self.scheduler.steps_under_way:
            work = [(len(chunk.tokens), chunk.start) for chunk in self.scheduler.step_plan()]
            if not work:
                break
            share_s = self.step_time(work) / self.scheduler.steps_under_way
            self.under_way.append((self.before.passed(self.now_s, share_s=share_s), share_s))
            self.trace.append(Event(self.now_s, "step", sum(tokens for tokens, _ in work)))
            self.num_steps += 1
            self.largest_batch = max(self.largest_batch, len(work))
        reaches_s, share_s = self.under_way.popleft()
        self.now_s = max(self.now_s, reaches_s) + share_s
        self.busy_s += share_s
        self._finish()

    def _finish(self) -> None:
        """A step is computed."""
        self._admit(until_s=self.now_s)  # what has come while it ran
        for generation in self.scheduler.commit([0] * len(self.scheduler.awaiting_token)):
            self._note(generation)

    def _note(self, generation: Generation) -> None:
        outcome = self.outcomes[generation.index]
        if outcome.first_s is None:
            outcome.first_s = self.now_s
            self.trace.append(Event(self.now_s, "first", generation.index))
        if generation.finish is not None:
            outcome.finished_s = self.now_s
            self.trace.append(Event(self.now_s, "finish", generation.index))
            self.source.done(self.now_s)
