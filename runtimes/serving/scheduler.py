"""Which tokens to compute next. Pure bookkeeping: no torch, no threads, no clock, so that it can be tested and simulated.

A step is planned, computed by somebody else, and committed:

    work = scheduler.step_plan()            # chunks of tokens
    tokens = sample(runner.step(work))      # one token for each chunk that needs logits
    advanced = scheduler.commit(tokens)     # generations that got a token; some of them finish

Every running answer gets its next token in every step (so the time per output token does not depend on the queue), and up
to `prefill_chunk` prompt tokens ride along (so a long prompt delays others by one chunk at most).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .generation import FinishReason, Generation
from .kv import KVSlots
from .work import Chunk


class Overloaded(Exception):
    """The queue is full. The message says of what."""


class Scheduler:
    """Continuous batching over KV slots, first come first served.

    Args:
        kv: the slots.
        prefill_chunk: prompt tokens computed in one step, over all prompts.
        max_waiting: generations that may wait for a slot.
        max_waiting_tokens: prompt tokens that may wait; one prompt may always wait, however long.
    """

    def __init__(self, kv: KVSlots, *, prefill_chunk: int, max_waiting: int, max_waiting_tokens: int) -> None:
        if prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be at least 1, not {prefill_chunk}")
        self.kv = kv
        self.prefill_chunk = prefill_chunk
        self.max_waiting = max_waiting
        self.max_waiting_tokens = max_waiting_tokens
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []  # in order of admission
        self.num_waiting_tokens = 0
        self._planned: list[tuple[Generation, Chunk]] | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def max_request(self) -> int:
        """Generations that one request may ask for: more would be refused even by an idle server."""
        return self.kv.num_slots + self.max_waiting

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue all of them, or none and raise Overloaded."""
        for generation in generations:
            if generation.num_prompt < 1 or generation.num_prompt + generation.max_tokens > self.kv.max_seq_len:
                raise ValueError("a prompt has at least one token, and fits with its answer in max_seq_len")
        num_tokens = sum(generation.num_prompt for generation in generations)
        num_queued = len(self.waiting) + len(generations) - self.kv.num_free
        if num_queued > self.max_waiting:
            raise Overloaded(f"{len(self.waiting)} requests are waiting, the bound is {self.max_waiting}")
        if self.waiting and num_queued > 0 and self.num_waiting_tokens + num_tokens > self.max_waiting_tokens:
            raise Overloaded(
                f"{self.num_waiting_tokens} prompt tokens are waiting, the bound is {self.max_waiting_tokens}"
            )
        self.waiting.extend(generations)
        self.num_waiting_tokens += num_tokens

    def step_plan(self) -> list[Chunk]:
        """The chunks of the next step: one token for each answer, then prompt tokens up to the budget."""
        if self._planned is not None:
            raise RuntimeError("the last plan was not committed")
        self._planned = [(generation, _chunk(generation, 1)) for generation in self.running if generation.is_decoding]
        budget = self.prefill_chunk
        for generation in self.running:
            if budget and not generation.is_decoding:
                budget -= self._plan_prefill(generation, budget)
        while budget and self.waiting and (slot := self.kv.acquire()) is not None:
            budget -= self._plan_prefill(self._admit(slot), budget)
        return [chunk for _, chunk in self._planned]

    @property
    def awaiting_token(self) -> list[Generation]:
        """The generations of the current plan whose chunk needs logits, in order."""
        return [generation for generation, chunk in self._planned or [] if chunk.needs_logits]

    def commit(self, tokens: Sequence[int | None]) -> list[Generation]:
        """Take one token for each of `awaiting_token`; None marks one that could not be sampled and ends as an error.

        Returns those that got a token. One that was cancelled while the step ran is left alone.
        """
        planned, self._planned = self._planned, None
        if planned is None:
            raise RuntimeError("there is no plan to commit")
        sampled = iter(tokens)
        advanced = []
        for generation, chunk in planned:
            token = next(sampled) if chunk.needs_logits else None
            if generation.finish is not None:
                continue
            generation.num_computed += len(chunk.tokens)
            if chunk.needs_logits:
                self._accept(generation, token)
                advanced.append(generation)
        return advanced

    def cancel(self, generation: Generation) -> None:
        """Forget a generation; its slot is free for the next plan. Nothing happens if it has finished."""
        if generation.finish is None:
            self._finish(generation, "cancelled")

    def _admit(self, slot: int) -> Generation:
        generation = self.waiting.popleft()
        self.num_waiting_tokens -= generation.num_prompt
        generation.slot = slot
        self.running.append(generation)
        return generation

    def _plan_prefill(self, generation: Generation, budget: int) -> int:
        """Plan as much of a prompt as the budget allows; the number of tokens."""
        assert self._planned is not None
        size = min(generation.num_pending, budget)
        self._planned.append((generation, _chunk(generation, size)))
        return size

    def _accept(self, generation: Generation, token: int | None) -> None:
        if token is None:
            self._finish(generation, "error")
            return
        generation.tokens.append(token)
        if token in generation.eos or (generation.text is not None and generation.text.push(token)):
            self._finish(generation, "stop")
        elif generation.num_output == generation.max_tokens:
            self._finish(generation, "length")

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        generation.finish = reason
        if generation.slot is None:
            self.waiting.remove(generation)
            self.num_waiting_tokens -= generation.num_prompt
            return
        self.running.remove(generation)
        self.kv.release(generation.slot)
        generation.slot = None


def _chunk(generation: Generation, size: int) -> Chunk:
    assert generation.slot is not None
    start = generation.num_computed
    tokens = generation.tokens[start : start + size]
    return Chunk(generation.slot, start, tokens, needs_logits=start + size == len(generation.tokens))
