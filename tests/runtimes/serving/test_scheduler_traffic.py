"""The scheduler and the KV blocks under random traffic: no block is lost or shared wrongly, and nobody's tokens depend on the others."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scheduled import (
    BLOCK_TOKENS,
    MAX_BATCH,
    NUM_BLOCKS,
    PREFILL_CHUNK,
    Cache,
    alone,
    generation,
    scheduler,
)

from llmc.runtimes.serving.generation import Generation
from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.prefix import PrefixBlocks
from llmc.runtimes.serving.scheduler import Overloaded, Scheduler
from llmc.runtimes.serving.work import Chunk


class Traffic(RuleBasedStateMachine):
    """Plain blocks; the other machines below differ in what they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = self.make_blocks()
        self.scheduler = self.make_scheduler()
        self.cache = Cache()
        self.live: list[Generation] = []
        self.done: list[Generation] = []
        self.chunks = None

    def make_blocks(self) -> KVBlocks:
        return KVBlocks(NUM_BLOCKS, block_tokens=BLOCK_TOKENS)

    def make_scheduler(self) -> Scheduler:
        return scheduler(self.kv)

    @rule(
        prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=15), min_size=1, max_size=4),
        max_tokens=st.integers(1, 9),
        stops=st.lists(st.text("0123456789", min_size=1, max_size=3), max_size=2),
        ignore_eos=st.booleans(),
        priority=st.integers(-1, 1),
    )
    def submit(self, prompts, max_tokens, stops, ignore_eos, priority):
        new = [
            generation(p, max_tokens=max_tokens, stops=tuple(stops), ignore_eos=ignore_eos, priority=priority)
            for p in prompts
        ]
        before, has_room = list(self.scheduler.waiting), True
        try:
            self.scheduler.check_room()
        except Overloaded:
            has_room = False
        try:
            self.scheduler.submit(new)
            assert has_room, "what is told to be refused is"
        except Overloaded:
            assert list(self.scheduler.waiting) == before, "a refused request leaves nothing behind"
        else:
            self.live += new

    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick):
        if self.live:
            chosen = pick.choice(self.live)
            self.scheduler.cancel(chosen)
            self.live.remove(chosen)
            assert chosen.finish == "cancelled"
            assert chosen.blocks is None

    @precondition(lambda self: self.chunks is None and self.scheduler.has_work)
    @rule()
    def plan(self):
        answers = [g for g in self.scheduler.running if g.is_decoding]
        before = self.scheduler.num_preempted
        self.chunks = self.scheduler.step_plan()
        assert self.chunks, "there is always something to do"
        planned = [g for g, _ in self.scheduler._plans[-1]]
        assert len(set(planned)) == len(planned) == len(self.chunks), "one chunk a generation"
        assert all(g.blocks is not None for g in planned)
        if self.scheduler.num_preempted == before:
            assert set(answers) <= set(planned), "every running answer advances in every step"
        prefilled = sum(len(chunk.tokens) for g, chunk in self.scheduler._plans[-1] if g not in answers)
        assert prefilled <= PREFILL_CHUNK + len(self.chunks)

    @precondition(lambda self: self.chunks is not None)
    @rule()
    def commit(self):  # cancels and submits may come between plan and commit, as they do from other threads
        tokens = self.cache.run(self.chunks)
        self.chunks = None
        self.scheduler.commit(tokens)
        finished = [g for g in self.live if g.finish is not None]
        self.live = [g for g in self.live if g.finish is None]
        self.done += finished

    @invariant()
    def everybody_is_somewhere_in_order(self):
        running, waiting = self.scheduler.running, list(self.scheduler.waiting)
        assert set(running) | set(waiting) == set(self.live)
        assert len(running) + len(waiting) == len(self.live)
        assert len(waiting) == len(self.scheduler.waiting)
        assert len(running) <= MAX_BATCH
        for line in (running, waiting):
            assert [g.rank() for g in line] == sorted(g.rank() for g in line)
        assert self.scheduler.waiting.num_tokens == sum(len(g.tokens) for g in waiting)
        assert all(g.blocks is None and g.num_computed == 0 for g in waiting)
        assert all(g.num_computed < len(g.tokens) for g in running)

    @invariant()
    def blocks_are_owned_by_those_who_run(self):
        owners = Counter(block for g in self.scheduler.running for block in g.blocks.ids)
        assert self.kv.num_used == len(owners)
        assert self.kv.num_used + self.kv.num_free == NUM_BLOCKS
        assert not set(owners) & set(self.kv._free)
        self.check_owners(owners)

    def check_owners(self, owners: Counter) -> None:
        assert set(owners.values()) <= {1}, "no block is used twice"
        assert len(set(self.kv._free)) == len(self.kv._free)

    def teardown(self):
        for _ in range(3000):
            if self.chunks is not None:
                self.commit()
            if not self.scheduler.has_work:
                break
            self.plan()
        assert not self.live, "every admitted request finishes"
        assert self.kv.num_used == 0, "every block is free again"
        for one in self.done:
            assert (one.tokens[one.num_prompt :], one.finish) == alone(one)


class PrefixTraffic(Traffic):
    """Blocks shared by content."""

    def make_blocks(self) -> KVBlocks:
        return PrefixBlocks(NUM_BLOCKS, block_tokens=BLOCK_TOKENS)

    def check_owners(self, owners: Counter) -> None:
        kv = self.kv
        assert {block: count for block, count in enumerate(kv._num_owners) if count} == dict(owners)
        assert sorted([*kv._free, *kv._idle, *owners]) == list(range(NUM_BLOCKS)), "nothing lost, nothing twice"
        assert {digest: block for block, digest in kv._digest_of.items()} == kv._block_of
        assert set(kv._idle) <= set(kv._digest_of)

    @invariant()
    def a_known_block_holds_what_its_digest_says(self):
        """Whoever has a sealed beginning finds there the keys and values of exactly its own tokens."""
        for one in self.scheduler.running:
            digest = hashlib.sha256(b"").digest()
            for at, block in enumerate(one.blocks.ids[: one.blocks.num_sealed]):
                tokens = one.tokens[at * BLOCK_TOKENS : (at + 1) * BLOCK_TOKENS]
                assert self.cache.block(block) == tokens
                digest = hashlib.sha256(digest + array("q", tokens).tobytes()).digest()
            assert one.blocks.chain in (digest, b"")


class StagedTraffic(PrefixTraffic):
    """Several steps under way, each of other generations; they are computed in order."""

    UNDER_WAY = 3

    def __init__(self) -> None:
        super().__init__()
        self.steps: deque[list[Chunk]] = deque()

    def make_scheduler(self) -> Scheduler:
        return scheduler(self.kv, steps_under_way=self.UNDER_WAY)

    @precondition(lambda self: len(self.steps) < self.UNDER_WAY and self.scheduler.has_work)
    @rule()
    def plan(self):
        computing = [generation for plan in self.scheduler._plans for generation, _ in plan]
        chunks = self.scheduler.step_plan()
        if not chunks:
            assert self.steps, "there is always something to do"
            return
        planned = [generation for generation, _ in self.scheduler._plans[-1]]
        assert not set(planned) & set(computing), "nobody is in two steps at a time"
        assert len(set(planned)) == len(planned) == len(chunks)
        self.steps.append(chunks)

    @precondition(lambda self: self.steps)
    @rule()
    def commit(self):
        self.chunks = self.steps.popleft()
        super().commit()

    def teardown(self):
        for _ in range(3000):
            before = len(self.steps)
            if before < self.UNDER_WAY and self.scheduler.has_work:
                self.plan()
            if self.steps and len(self.steps) == before:
                self.commit()
        super().teardown()


class FixedTraffic(PrefixTraffic):
    """The same pieces for a sequence whoever else is there."""

    def make_scheduler(self) -> Scheduler:
        return scheduler(self.kv, prefill_chunk=2 * BLOCK_TOKENS, is_fixed=True)

    @precondition(lambda self: self.chunks is None and self.scheduler.has_work)
    @rule()
    def plan(self):
        self.chunks = self.scheduler.step_plan()
        assert self.chunks
        prompts = [c for g, c in self.scheduler._plans[-1] if not g.is_decoding]
        assert len(prompts) <= 1
        for chunk in prompts:
            assert chunk.start % (2 * BLOCK_TOKENS) == 0
            assert len(chunk.tokens) == 2 * BLOCK_TOKENS or chunk.needs_logits
        assert self.scheduler.num_preempted == 0


TestTraffic = Traffic.TestCase
TestPrefixTraffic = PrefixTraffic.TestCase
TestStagedTraffic = StagedTraffic.TestCase
TestFixedTraffic = FixedTraffic.TestCase
for case in (TestTraffic, TestPrefixTraffic, TestStagedTraffic, TestFixedTraffic):
    case.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
