"""The scheduler under random traffic: nobody's slot is shared or lost, and nobody's tokens depend on the others."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmc.runtimes.serving.generation import Generation
from llmc.runtimes.serving.kv import KVSlots
from llmc.runtimes.serving.scheduler import Overloaded, Scheduler
from llmc.runtimes.serving.text import TextStream

NUM_SLOTS = 3
MAX_SEQ_LEN = 24
PREFILL_CHUNK = 5
MAX_WAITING = 6
MAX_WAITING_TOKENS = 40
EOS = 7


def next_token(tokens: list[int]) -> int:
    """A "model": the next token (0–9) from all tokens before."""
    value = 17
    for token in tokens:
        value = (value * 31 + token + 1) % 1009
    return value % 10


def generation(
    prompt: list[int], *, max_tokens: int, stops: tuple[str, ...] = (), ignore_eos: bool = False
) -> Generation:
    return Generation(
        tokens=list(prompt),
        num_prompt=len(prompt),
        max_tokens=max_tokens,
        eos=frozenset() if ignore_eos else frozenset([EOS]),
        text=TextStream(lambda token: str(token).encode(), stops),
    )


def scheduler(**options: int) -> Scheduler:
    defaults = {"prefill_chunk": PREFILL_CHUNK, "max_waiting": MAX_WAITING, "max_waiting_tokens": MAX_WAITING_TOKENS}
    return Scheduler(KVSlots(NUM_SLOTS, max_seq_len=MAX_SEQ_LEN), **{**defaults, **options})


class Cache:
    """The tokens whose keys and values each slot holds."""

    def __init__(self) -> None:
        self.slots: dict[int, list[int]] = {}

    def run(self, chunks) -> list[int]:
        tokens = []
        for chunk in chunks:
            held = [] if chunk.start == 0 else self.slots[chunk.slot]
            assert len(held) == chunk.start, "a chunk must continue what its slot holds"
            self.slots[chunk.slot] = held + chunk.tokens
            if chunk.needs_logits:
                tokens.append(next_token(self.slots[chunk.slot]))
        return tokens


def alone(original: Generation) -> tuple[list[int], str]:
    """The answer of plain decoding, without scheduler or cache, and why it ends."""
    tokens = original.tokens[: original.num_prompt]
    text = TextStream(lambda token: str(token).encode(), original.text._stops)
    output: list[int] = []
    while True:
        output.append(next_token(tokens + output))
        if output[-1] in original.eos or text.push(output[-1]):
            return output, "stop"
        if len(output) == original.max_tokens:
            return output, "length"


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = scheduler()
        self.cache = Cache()
        self.live: list[Generation] = []
        self.done: list[Generation] = []
        self.chunks = None

    @rule(
        prompts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=15), min_size=1, max_size=4),
        max_tokens=st.integers(1, 9),
        stops=st.lists(st.text("0123456789", min_size=1, max_size=3), max_size=2),
        ignore_eos=st.booleans(),
    )
    def submit(self, prompts, max_tokens, stops, ignore_eos):
        new = [generation(p, max_tokens=max_tokens, stops=tuple(stops), ignore_eos=ignore_eos) for p in prompts]
        before = list(self.scheduler.waiting)
        try:
            self.scheduler.submit(new)
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
            assert chosen.slot is None

    @precondition(lambda self: self.chunks is None and self.scheduler.has_work)
    @rule()
    def plan(self):
        decoding = [g for g in self.scheduler.running if g.is_decoding]
        self.chunks = self.scheduler.step_plan()
        planned = {chunk.slot: chunk for chunk in self.chunks}
        assert len(planned) == len(self.chunks), "one chunk a slot"
        for one in decoding:
            assert planned[one.slot].tokens == one.tokens[-1:], "every running answer advances in every step"
        prefilled = sum(len(c.tokens) for c in self.chunks) - len(decoding)
        assert prefilled <= PREFILL_CHUNK
        is_waiting_possible = not self.scheduler.waiting or prefilled == PREFILL_CHUNK or not self.scheduler.kv.num_free
        assert is_waiting_possible, "nobody waits while there is a slot and budget"

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
    def slots_are_owned_once(self):
        running = self.scheduler.running
        slots = [g.slot for g in running]
        assert len(set(slots)) == len(slots) == self.scheduler.kv.num_used
        assert self.scheduler.kv.num_used + self.scheduler.kv.num_free == NUM_SLOTS
        assert self.scheduler.num_waiting_tokens == sum(g.num_prompt for g in self.scheduler.waiting)
        assert set(running) | set(self.scheduler.waiting) == set(self.live)
        assert all(g.slot is None for g in self.scheduler.waiting)

    def teardown(self):
        for _ in range(2000):
            if self.chunks is not None:
                self.commit()
            if not self.scheduler.has_work:
                break
            self.plan()
        assert not self.live, "every admitted request finishes"
        assert self.scheduler.kv.num_used == 0
        for one in self.done:
            assert (one.tokens[one.num_prompt :], one.finish) == alone(one)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40)


def drain(sched: Scheduler, cache: Cache) -> list[list[tuple[int, int]]]:
    """Run to the end; for each step (slot, number of tokens) of its chunks."""
    steps = []
    while sched.has_work:
        chunks = sched.step_plan()
        steps.append([(c.slot, len(c.tokens)) for c in chunks])
        sched.commit(cache.run(chunks))
    return steps


def test_a_long_prompt_is_computed_in_chunks_beside_running_answers():
    sched, cache = scheduler(), Cache()
    sched.submit([generation([1, 2], max_tokens=8, ignore_eos=True)])
    sched.commit(cache.run(sched.step_plan()))
    sched.submit([generation([3] * 12, max_tokens=1, ignore_eos=True)])
    assert drain(sched, cache)[:3] == [[(0, 1), (1, 5)], [(0, 1), (1, 5)], [(0, 1), (1, 2)]]


def test_short_prompts_share_the_budget_of_a_step():
    sched, cache = scheduler(), Cache()
    sched.submit([generation([1, 2], max_tokens=1), generation([3, 4], max_tokens=1), generation([5, 6], max_tokens=1)])
    assert drain(sched, cache) == [[(0, 2), (1, 2), (2, 1)], [(2, 1)]]


def test_requests_are_served_in_order_of_arrival():
    sched = scheduler(prefill_chunk=100)
    sent = [generation([i], max_tokens=1) for i in range(6)]
    for one in sent:
        sched.submit([one])
    sched.step_plan()
    assert sched.running == sent[:3]
    assert list(sched.waiting) == sent[3:]


def test_the_queue_is_bounded_by_requests():
    sched = scheduler(max_waiting=2)
    sched.submit([generation([1], max_tokens=1) for _ in range(NUM_SLOTS + 2)])
    with pytest.raises(Overloaded, match=r"5 requests are waiting, the bound is 2"):
        sched.submit([generation([1], max_tokens=1)])


def test_the_queue_is_bounded_by_tokens_but_one_prompt_may_always_wait():
    sched = scheduler(max_waiting_tokens=10)
    sched.submit([generation([1] * 20, max_tokens=1) for _ in range(3)])
    sched.step_plan()
    sched.commit([])
    assert len(sched.waiting) == 2
    with pytest.raises(Overloaded, match=r"40 prompt tokens are waiting, the bound is 10"):
        sched.submit([generation([1] * 20, max_tokens=1), generation([1], max_tokens=1)])


def test_a_request_is_taken_whole_or_not_at_all():
    sched = scheduler(max_waiting=0)
    sched.submit([generation([1], max_tokens=1)] * 1)
    with pytest.raises(Overloaded):
        sched.submit([generation([1], max_tokens=1) for _ in range(NUM_SLOTS)])
    assert len(sched.waiting) == 1


@pytest.mark.parametrize(("length", "max_tokens"), [(0, 1), (24, 1), (20, 5)])
def test_what_does_not_fit_in_the_context_is_our_bug_not_a_hang(length: int, max_tokens: int):
    with pytest.raises(ValueError, match="fits with its answer"):
        scheduler().submit([generation([1] * length, max_tokens=max_tokens)])


def test_a_token_that_could_not_be_sampled_ends_its_request_only():
    sched = scheduler()
    good, bad = generation([1], max_tokens=2, ignore_eos=True), generation([2], max_tokens=2)
    sched.submit([bad, good])
    sched.step_plan()
    sched.commit([None, 3])
    assert (bad.finish, good.finish) == ("error", None)
    assert sched.kv.num_used == 1


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_what_is_cancelled_while_its_step_runs_gets_no_token(max_tokens: int):
    sched = scheduler()
    stays, goes = generation([1], max_tokens=5, ignore_eos=True), generation([2], max_tokens=max_tokens)
    sched.submit([goes, stays])
    sched.step_plan()
    sched.cancel(goes)
    assert sched.commit([4, 5]) == [stays]
    assert (goes.tokens, goes.finish) == ([2], "cancelled")
    assert (stays.tokens, sched.kv.num_used) == ([1, 5], 1)


def test_a_plan_is_committed_before_the_next():
    sched = scheduler()
    sched.submit([generation([1], max_tokens=1)])
    sched.step_plan()
    with pytest.raises(RuntimeError, match="not committed"):
        sched.step_plan()


def test_a_slot_released_twice_is_found():
    kv = KVSlots(1, max_seq_len=4)
    slot = kv.acquire()
    assert kv.acquire() is None
    kv.release(slot)
    with pytest.raises(KeyError):
        kv.release(slot)
