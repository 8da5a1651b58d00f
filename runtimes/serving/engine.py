"""The thread that owns the model: plan a step, compute it, sample, commit, deliver; again.

Everything the event loop does here (`submit`, `cancel`, `health`) takes microseconds: the lock is never held while the
model computes. No request is ever left hanging: if a step raises, every request gets an error and health stays red; if
a step does not return within `stall_s`, every request gets an error and health is red until it does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from .generation import FinishReason, Generation, Sampled
from .scheduler import Overloaded, Scheduler
from .work import Chunk, Runner, StagedRunner, TokenSampler

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger("llmc.serving")

NO_NUMBERS = "the model gave no usable numbers for this request (NaN or infinite logits)"
DOWN = {
    "failed": "the engine has failed; the server's log says why",
    "stalled": "the engine makes no progress",
    "stopped": "the server is stopping",
}


class EngineDown(Exception):
    """The engine takes no requests. The message says why."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer; `offset` is where it begins, in characters of the answer."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one choice. Text that a stop string may still swallow comes later, with its tokens."""

    index: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    error: str | None = None  # with finish "error"


Post = Callable[[list[Delta]], None]


@dataclass(frozen=True)
class Health:
    status: Literal["ok", "failed", "stalled", "stopped"]
    step_age_s: float  # since the engine last began a step; 0 when it has nothing to do
    num_steps: int  # computed so far
    num_running: int
    num_waiting: int


@dataclass(slots=True)
class _Entry:
    """What the engine remembers of one generation besides its tokens."""

    post: Post
    arrived_s: float
    first_token_s: float | None = None
    offset: int = 0  # characters spelled before the next token
    tokens: list[int] = field(default_factory=list)  # not delivered yet
    logprobs: list[TokenLogprob] = field(default_factory=list)  # not delivered yet


class Engine:
    """Runs a scheduler on a thread of its own.

    Args:
        runner: the model side; only this engine's thread calls it. One of several stages, where the scheduler has several steps
            under way.
        sampler: logits to tokens.
        scheduler: what to compute next.
        metrics: where to count, if anywhere.
        stall_s: a step that takes longer means the engine is stuck.
    """

    def __init__(
        self,
        runner: Runner,
        sampler: TokenSampler,
        scheduler: Scheduler,
        *,
        metrics: Metrics | None = None,
        stall_s: float = 30.0,
    ) -> None:
        self.scheduler = scheduler
        self.stall_s = stall_s
        assert scheduler.steps_under_way == 1 or isinstance(runner, StagedRunner)
        self._runner = runner
        self._begun: deque[list[Chunk]] = deque()  # steps that other stages work on already
        self._sampler = sampler
        self._metrics = metrics
        self._entries: dict[Generation, _Entry] = {}
        self._changed = threading.Condition()  # its lock guards the scheduler and the entries
        self._is_stopping = False
        self._has_failed = False
        self._step_began_s: float | None = None  # None: idle
        self._num_steps = 0
        self._suspect_s: float | None = None  # the step that looked stalled at the last look
        self._finished_s: deque[float] = deque(maxlen=64)
        self._thread = threading.Thread(target=self._run, name="llmc-engine", daemon=True)
        if metrics is not None:
            self._track(metrics)

    # --- called from any thread -------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """End after the step in progress; requests that are not finished get an error."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._end_all(DOWN["stopped"])

    def fail(self) -> None:
        """The model side is lost, though a step may never say so: every request gets an error, and health turns red for good."""
        self._has_failed = True
        self._end_all(DOWN["failed"])

    def check_room(self, num_generations: int) -> None:
        """Raise Overloaded or EngineDown if a request would be refused whatever it is, before anything is computed for it."""
        with self._changed, self._refusing(num_generations):
            self.scheduler.check_room()

    def submit(self, generations: Sequence[Generation], post: Post) -> None:
        """Queue generations; `post` gets their news on the engine's thread. Raises Overloaded or EngineDown."""
        now = time.monotonic()
        with self._changed:
            with self._refusing(len(generations)):
                self.scheduler.submit(generations)
            self._entries.update((generation, _Entry(post, now)) for generation in generations)
            self._changed.notify()
        self._count("llmc_prompt_tokens_total", sum(generation.num_prompt for generation in generations))

    def cancel(self, generations: Sequence[Generation]) -> None:
        """Stop computing these; the ones that have finished are left alone. Nothing more is posted."""
        with self._changed:
            for generation in generations:
                if self._entries.pop(generation, None) is not None:
                    self.scheduler.cancel(generation)
                    self._count("llmc_requests_total", reason="cancelled")

    def health(self) -> Health:
        age_s = self._step_age_s()
        if self._has_failed:
            status = "failed"
        elif self._is_stopping:
            status = "stopped"
        else:
            status = "stalled" if age_s > self.stall_s else "ok"
        return Health(status, age_s, self._num_steps, len(self.scheduler.running), len(self.scheduler.waiting))

    def retry_after_s(self) -> int:
        """Seconds after which a refused request has a chance: the queue's length over the rate at which requests finish."""
        times = list(self._finished_s)
        if len(times) < 2:
            return 1
        per_s = (len(times) - 1) / max(time.monotonic() - times[0], 1e-3)
        return min(max(round((len(self.scheduler.waiting) + 1) / per_s), 1), 60)

    def end_if_stalled(self) -> None:
        """To be called about once a second: a step found stuck twice in a row ends all requests with an error.

        Twice, because after the whole process was suspended every step looks stuck once.
        """
        began_s = self._step_began_s
        if self._step_age_s() <= self.stall_s:
            self._suspect_s = None
        elif self._suspect_s != began_s:
            self._suspect_s = began_s
        else:
            log.error("no progress for %.0f s; requests in flight are ended", self._step_age_s())
            self._end_all(DOWN["stalled"])

    @contextlib.contextmanager
    def _refusing(self, num_generations: int) -> Iterator[None]:
        """Refusals are counted. A scheduler of an engine that is down is not asked."""
        if (status := self.health().status) != "ok":
            raise EngineDown(DOWN[status])
        try:
            yield
        except Overloaded:
            self._count("llmc_requests_refused_total", num_generations)
            raise

    # --- on the engine's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                if self.scheduler.steps_under_way > 1:
                    work = self._begin(work)
                self._step(work)
            for work in self._begun:  # or the stages before would wait for somebody to take what they made of them
                self._runner.step(work)
        except BaseException:
            log.exception("the engine has failed")
            self.fail()
        finally:
            self._step_began_s = None

    def _next_work(self) -> list[Chunk] | None:
        """The next plan; waits while there is nothing to do, None when the engine is to stop."""
        with self._changed:
            while not self._is_stopping and not self.scheduler.has_work and not self._begun:
                self._step_began_s = None
                self._changed.wait()
            if self._is_stopping:
                return None
            self._step_began_s = time.monotonic()
            return self._plan()

    def _plan(self) -> list[Chunk]:
        before = self.scheduler.num_preempted
        work = self.scheduler.step_plan()
        self._count("llmc_preemptions_total", self.scheduler.num_preempted - before)
        return work

    def _begin(self, work: list[Chunk]) -> list[Chunk]:
        """Have the first stage begin with this step and, of what it leaves, with as many as there are stages; the oldest one,
        whose turn it is in the last stage."""
        assert isinstance(self._runner, StagedRunner)
        while work:
            self._runner.begin(work)
            self._begun.append(work)
            if len(self._begun) == self.scheduler.steps_under_way:
                break
            with self._changed:
                work = self._plan()
        return self._begun.popleft()

    def _step(self, work: list[Chunk]) -> None:
        began_s = time.monotonic()
        generations = self.scheduler.awaiting_token
        logits = self._runner.step(work)
        sampled = self._sampler.sample(logits, generations)
        if len(sampled) != len(generations):
            raise RuntimeError(f"{len(generations)} rows of logits were wanted, the model gave {len(sampled)}")
        with self._changed:
            self._num_steps += 1
            self.scheduler.commit([None if s is None else s.token for s in sampled])
            self._count("llmc_output_tokens_total", len(sampled))
            news = [self._news(g, s) for g, s in zip(generations, sampled, strict=True)]
        for post, deltas in _by_request(item for item in news if item is not None):
            post(deltas)
        self._measure(work, began_s)

    def _news(self, generation: Generation, sampled: Sampled | None) -> tuple[Post, Delta] | None:
        """What to deliver after a step, if anything."""
        entry = self._entries.get(generation)
        if entry is None:  # cancelled while the step ran
            return None
        if sampled is not None:
            self._take(entry, generation, sampled)
        if generation.finish is not None:
            self._close(generation, entry)
        delta = _delta(generation, entry)
        is_news = delta.text or delta.finish or delta.logprobs or generation.text is None
        if not is_news:
            return None
        entry.tokens, entry.logprobs = [], entry.logprobs[len(delta.logprobs) :]
        return entry.post, delta

    def _take(self, entry: _Entry, generation: Generation, sampled: Sampled) -> None:
        """Remember a token until its text is delivered."""
        entry.tokens.append(sampled.token)
        if entry.first_token_s is None:
            entry.first_token_s = time.monotonic()
            self._observe("llmc_time_to_first_token_seconds", entry.first_token_s - entry.arrived_s)
        if sampled.logprob is not None and sampled.token not in generation.eos:
            entry.logprobs.append(TokenLogprob(sampled.token, sampled.logprob, sampled.top, entry.offset))
        entry.offset = generation.text.length if generation.text is not None else 0

    def _close(self, generation: Generation, entry: _Entry) -> None:
        """Forget a finished generation, and measure it."""
        del self._entries[generation]
        now = time.monotonic()
        self._finished_s.append(now)
        self._count("llmc_requests_total", reason=generation.finish or "")
        self._observe("llmc_request_seconds", now - entry.arrived_s)
        if entry.first_token_s is not None and generation.num_output > 1:
            per_token_s = (now - entry.first_token_s) / (generation.num_output - 1)
            self._observe("llmc_time_per_output_token_seconds", per_token_s)

    def _end_all(self, message: str) -> None:
        """Every request that is not finished ends with an error."""
        with self._changed:
            entries, self._entries = self._entries, {}
            for generation, entry in entries.items():  # tell everybody first: cancelling may fail where a step has
                entry.post([Delta(generation.index, finish="error", error=message)])
                self._count("llmc_requests_total", reason="error")
            for generation in entries:
                self.scheduler.cancel(generation)

    # --- measuring --------------------------------------------------------------------------------------------

    def _step_age_s(self) -> float:
        began_s = self._step_began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def _measure(self, work: list[Chunk], began_s: float) -> None:
        self._observe("llmc_step_seconds", time.monotonic() - began_s)
        self._observe("llmc_step_tokens", sum(len(chunk.tokens) for chunk in work))

    def _count(self, name: str, amount: float = 1, **labels: str) -> None:
        if self._metrics is not None:
            self._metrics.add(name, amount, **labels)

    def _observe(self, name: str, value: float) -> None:
        if self._metrics is not None:
            self._metrics.observe(name, value)

    def _track(self, metrics: Metrics) -> None:
        scheduler = self.scheduler
        metrics.track("llmc_requests_running", lambda: len(scheduler.running))
        metrics.track("llmc_requests_waiting", lambda: len(scheduler.waiting))
        metrics.track("llmc_tokens_waiting", lambda: scheduler.waiting.num_tokens)
        metrics.track("llmc_kv_blocks_used", lambda: scheduler.kv.num_used)
        metrics.track("llmc_kv_blocks", lambda: scheduler.kv.num_blocks)
        metrics.track("llmc_engine_up", lambda: float(self.health().status == "ok"))
        metrics.track("llmc_engine_step_age_seconds", self._step_age_s)
        for reason in get_args(FinishReason):
            metrics.add("llmc_requests_total", 0, reason=reason)


def _delta(generation: Generation, entry: _Entry) -> Delta:
    """The news of a generation: certain text, and the tokens whose text that is."""
    error = NO_NUMBERS if generation.finish == "error" else None
    logprobs, text = tuple(entry.logprobs), ""
    if generation.text is not None:
        text = generation.text.take() if generation.finish is None else generation.text.finish()
        logprobs = tuple(p for p in logprobs if p.offset < generation.text.num_taken)
    return Delta(generation.index, text, tuple(entry.tokens), logprobs, generation.finish, error)


def _by_request(news: Iterable[tuple[Post, Delta]]) -> list[tuple[Post, list[Delta]]]:
    """One delivery for each request, however many of its choices have news."""
    grouped: dict[Post, list[Delta]] = {}
    for post, delta in news:
        grouped.setdefault(post, []).append(delta)
    return list(grouped.items())
