"""Which tokens to compute next. Pure bookkeeping: no torch, no threads, no clock, so that it can be tested and simulated.

A step is planned, computed by somebody else, and committed:

    work = scheduler.step_plan()            # chunks of tokens
    tokens = sample(runner.step(work))      # one token for each chunk that needs logits
    advanced = scheduler.commit(tokens)     # generations that got a token; some of them finish

Every running answer gets its next token in every step (so the time per output token does not depend on the queue), and up
to `prefill_chunk` prompt tokens ride along (so a long prompt delays others by one chunk at most).

Answers grow block by block. When the cache is full, the last of the running ones (lowest priority, then youngest) gives its
blocks up and waits in front of the others: its tokens, its random numbers and its text stay, and what it had computed is
computed again, unless the cache of prefixes still has it. A request of higher priority displaces in the same way.

Where the model is a pipeline of stages, as many steps are under way at a time: a step may be planned before those before it are
committed, of generations that are in none of them. Each then has an even share of the answers.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heapreplace

from .generation import FinishReason, Generation
from .kv import BlockTable, KVBlocks
from .line import WaitingLine
from .work import Chunk

USED_SHARE_OVER = 32
"""Answers over which the mean of their used shares moves."""


class Overloaded(Exception):
    """The queue is full. The message says of what."""


class Scheduler:
    """Continuous batching over KV blocks, by priority and then first come first served.

    Args:
        kv: the blocks; they hold at least one sequence of `max_seq_len` tokens.
        max_batch: generations that run at a time.
        max_seq_len: longest prompt and answer together.
        prefill_chunk: prompt tokens computed in one step, over all prompts.
        max_waiting: generations that may wait to run.
        max_waiting_tokens: prompt tokens that may wait; one prompt may always wait, however long.
        max_wait_steps: who would wait for more steps is refused; None: however long.
        is_fixed: a sequence is computed in the same pieces whoever else is there: one prompt a step, in chunks that begin
            at multiples of `prefill_chunk`, with room for the whole answer from the start and so never displaced.
        steps_under_way: how many steps may be planned before the first of them is committed.
    """

    def __init__(
        self,
        kv: KVBlocks,
        *,
        max_batch: int,
        max_seq_len: int,
        prefill_chunk: int,
        max_waiting: int,
        max_waiting_tokens: int,
        max_wait_steps: int | None = None,
        is_fixed: bool = False,
        steps_under_way: int = 1,
    ) -> None:
        if prefill_chunk < 1 or max_batch < 1:
            raise ValueError("prefill_chunk and max_batch must be at least 1")
        if kv.num_blocks < kv.blocks_for(max_seq_len):
            raise ValueError(f"{kv.num_blocks} blocks do not hold a sequence of {max_seq_len} tokens")
        self.kv = kv
        self.max_batch = max_batch
        self.max_seq_len = max_seq_len
        self.prefill_chunk = prefill_chunk
        self.max_waiting = max_waiting
        self.max_waiting_tokens = max_waiting_tokens
        self.max_wait_steps = max_wait_steps
        self._used_share = 1.0  # of the tokens that answers may have, those that they come to; a moving mean
        self.is_fixed = is_fixed
        self.steps_under_way = steps_under_way
        self.waiting = WaitingLine()
        self.running: list[Generation] = []  # in order of rank: the last is displaced first
        self.num_preempted = 0
        self._num_submitted = 0
        self._plans: deque[list[tuple[Generation, Chunk]]] = deque()  # not committed yet, the oldest first
        self._under_way: set[Generation] = set()  # those of all of them

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def max_request(self) -> int:
        """Generations that one request may ask for: more would be refused even by an idle server."""
        return self.max_batch + self.max_waiting

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue all of them, or none and raise Overloaded."""
        for generation in generations:
            if generation.num_prompt < 1 or generation.num_prompt + generation.max_tokens > self.max_seq_len:
                raise ValueError("a prompt has at least one token, and fits with its answer in max_seq_len")
        self.check_room(generations)
        for generation in generations:
            generation.number = self._num_submitted
            self._num_submitted += 1
            self.waiting.add(generation)

    def check_room(self, generations: Sequence[Generation] = ()) -> None:
        """Raise Overloaded if these cannot be queued; without any, if whatever came now would be refused."""
        num_waiting, num_tokens = len(self.waiting), self.waiting.num_tokens
        num_queued = num_waiting + max(1, len(generations)) - (self.max_batch - len(self.running))
        if num_queued > self.max_waiting:
            raise Overloaded(f"{num_waiting} requests are waiting, the bound is {self.max_waiting}")
        new_tokens = sum(generation.num_prompt for generation in generations)
        if num_waiting and num_queued > 0 and num_tokens + new_tokens > self.max_waiting_tokens:
            raise Overloaded(f"{num_tokens} prompt tokens are waiting, the bound is {self.max_waiting_tokens}")
        if self.max_wait_steps is not None and num_queued > 0:
            steps = self.wait_steps(generations)
            if steps > self.max_wait_steps:
                raise Overloaded(f"the wait is about {steps} steps, the bound is {self.max_wait_steps}")

    def wait_steps(self, generations: Sequence[Generation] = ()) -> int:
        """Steps after which the last of these would begin, if those before it in line are answered as usual; without any,
        whoever came next.

        A place in the batch is free when an answer ends, and everybody in line takes the first one that is free.
        """
        ends = [0] * (self.max_batch - len(self.running)) + [self._steps_left(g) for g in self.running]
        heapify(ends)
        for generation in (*self.waiting, *generations[:-1]):
            heapreplace(ends, ends[0] + self._steps_left(generation))
        return ends[0]

    def _steps_left(self, generation: Generation) -> int:
        """Of its prompt, and of the share of the rest of its answer that answers usually use."""
        prompt = -(-max(0, generation.num_prompt - generation.num_computed) // self.prefill_chunk)
        return prompt + math.ceil((generation.max_tokens - generation.num_output) * self._used_share)

    def step_plan(self) -> list[Chunk]:
        """The chunks of the next step: one token for each answer, then prompt tokens up to the budget.

        None, and nothing to commit, where all that could be computed is in steps that are under way.
        """
        if len(self._plans) == self.steps_under_way:
            raise RuntimeError("the last plan was not committed")
        self._plans.append([])
        self._plan_answers()
        budget = self.prefill_chunk
        for generation in self.running:
            if budget and not generation.is_decoding and generation not in self._under_way:
                budget -= self._plan_prompt(generation, budget)
        while budget and self.waiting and (generation := self._admit()) is not None:
            budget -= self._plan_prompt(generation, budget)
        planned = self._plans[-1]
        if not planned and len(self._plans) > 1:
            self._plans.pop()
        self._under_way.update(generation for generation, _ in planned)
        return [chunk for _, chunk in planned]

    @property
    def awaiting_token(self) -> list[Generation]:
        """The generations of the plan to be committed next whose chunk needs logits, in order."""
        return [generation for generation, chunk in (self._plans[0] if self._plans else []) if chunk.needs_logits]

    def commit(self, tokens: Sequence[int | None]) -> list[Generation]:
        """Take one token for each of `awaiting_token`; None marks one that could not be sampled and ends as an error.

        Returns those that got a token. One that was cancelled while the step ran is left alone.
        """
        if not self._plans:
            raise RuntimeError("there is no plan to commit")
        planned = self._plans.popleft()
        self._under_way.difference_update(generation for generation, _ in planned)
        sampled = iter(tokens)
        advanced = []
        for generation, chunk in planned:
            token = next(sampled) if chunk.needs_logits else None
            if generation.finish is not None:
                continue
            generation.num_computed += len(chunk.tokens)
            assert generation.blocks is not None
            self.kv.seal(generation.blocks, generation.tokens, generation.num_computed)
            if chunk.needs_logits:
                self._accept(generation, token)
                advanced.append(generation)
        return advanced

    def steady_steps(self) -> int:
        """How many of the next steps do nothing but add a token to every answer: none begins, ends, or lacks a block.

        Of use where answers are as long as they may be and tokens do not matter (`simulation.py`).
        """
        if not self.running or not all(generation.is_decoding for generation in self.running):
            return 0
        if self.waiting and (len(self.running) < self.max_batch or self._can_displace(self.waiting.head)):
            return 0
        until_one_ends = min(generation.max_tokens - generation.num_output for generation in self.running) - 1
        return min(until_one_ends, self.kv.num_free // len(self.running) * self.kv.block_tokens)

    def advance(self, steps: int) -> None:
        """Plan and commit so many of the `steady_steps` at once, each token 0."""
        for generation in self.running:
            table = generation.blocks
            assert table is not None
            generation.tokens.extend([0] * steps)
            generation.num_computed += steps
            while len(table.ids) * self.kv.block_tokens < generation.num_computed:
                self.kv.grow(table)
            self.kv.seal(table, generation.tokens, generation.num_computed)

    def cancel(self, generation: Generation) -> None:
        """Forget a generation; its blocks are free for the next plan. Nothing happens if it has finished."""
        if generation.finish is None:
            self._finish(generation, "cancelled")

    # --- planning ---------------------------------------------------------------------------------------------

    def _plan_answers(self) -> None:
        """The next token of each answer, from the first rank down, so that who is displaced was not planned yet."""
        at, block_tokens = 0, self.kv.block_tokens
        share = -(-len(self.running) // self.steps_under_way)
        while at < len(self.running) and len(self._plans[-1]) < share:
            generation = self.running[at]
            at += 1
            if not generation.is_decoding or generation in self._under_way:
                continue
            table = generation.blocks
            assert table is not None
            while len(table.ids) * block_tokens < len(generation.tokens) and not self.kv.grow(table):
                if self.running[-1] in self._under_way:  # its blocks are in use; it can make room after that
                    return
                self._preempt(self.running[-1])
                if generation.blocks is None:  # it was the last itself
                    return
            self._plan(generation, 1)

    def _plan_prompt(self, generation: Generation, budget: int) -> int:
        """Plan as much of a prompt as the budget allows; what that takes of the budget."""
        size = min(len(generation.tokens) - generation.num_computed, budget)
        self._plan(generation, size)
        return budget if self.is_fixed else size

    def _plan(self, generation: Generation, size: int) -> None:
        assert generation.blocks is not None
        start = generation.num_computed
        tokens = generation.tokens[start : start + size]
        chunk = Chunk(generation.blocks.ids, start, tokens, start + size == len(generation.tokens))
        self._plans[-1].append((generation, chunk))

    def _admit(self) -> Generation | None:
        """The head of the line with its blocks, if there is room or somebody of lower priority can make some."""
        generation = self.waiting.head
        while (table := self._open(generation)) is None:
            if not self._can_displace(generation) or self.running[-1] in self._under_way:
                return None
            self._preempt(self.running[-1])
        self.waiting.remove(generation)
        generation.blocks = table
        generation.num_computed = table.num_cached
        insort(self.running, generation, key=Generation.rank)
        return generation

    def _open(self, generation: Generation) -> BlockTable | None:
        if len(self.running) == self.max_batch:
            return None
        is_fixed = self.is_fixed
        return self.kv.open(
            generation.tokens,
            room=generation.num_prompt + generation.max_tokens if is_fixed else len(generation.tokens),
            spare=0 if is_fixed else len(self.running),  # a block for each answer, or it would be displaced soon
            align=self.prefill_chunk if is_fixed else 1,
            salt=generation.salt,
        )

    def _can_displace(self, generation: Generation) -> bool:
        """Whether those of lower priority hold enough for it."""
        if self.is_fixed or not self.running or self.running[-1].priority >= generation.priority:
            return False
        lower = [other for other in self.running if other.priority < generation.priority]
        held = sum(len(other.blocks.ids) for other in lower if other.blocks is not None)
        needed = self.kv.blocks_for(len(generation.tokens)) + len(self.running) - len(lower)
        return needed <= self.kv.num_free + held

    def _preempt(self, generation: Generation) -> None:
        """Take its blocks; it waits in front, with all its tokens to compute."""
        self._plans[-1] = [planned for planned in self._plans[-1] if planned[0] is not generation]
        self._leave(generation)
        generation.num_computed = 0
        self.waiting.put_back(generation)
        self.num_preempted += 1

    # --- finishing --------------------------------------------------------------------------------------------

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
        if reason in ("stop", "length"):
            self._used_share += (generation.num_output / generation.max_tokens - self._used_share) / USED_SHARE_OVER
        if generation.blocks is None:
            self.waiting.remove(generation)
        else:
            self._leave(generation)

    def _leave(self, generation: Generation) -> None:
        assert generation.blocks is not None
        self.running.remove(generation)
        self.kv.release(generation.blocks)
        generation.blocks = None
