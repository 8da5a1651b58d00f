"""What the scheduler does in one situation each: order, budget, displacement, bounds of the queue, cancelled steps."""

from __future__ import annotations

import pytest
from scheduled import (
    BLOCK_TOKENS,
    EOS,
    MAX_BATCH,
    Cache,
    alone,
    generation,
    scheduler,
)

from llmc.runtimes.serving.kv import KVBlocks
from llmc.runtimes.serving.prefix import PrefixBlocks
from llmc.runtimes.serving.scheduler import Overloaded, Scheduler


def drain(sched: Scheduler, cache: Cache) -> list[list[int]]:
    """Run to the end; the lengths of the chunks of each step."""
    steps = []
    while sched.has_work:
        chunks = sched.step_plan()
        steps.append([len(chunk.tokens) for chunk in chunks])
        sched.commit(cache.run(chunks))
    return steps


def test_a_long_prompt_is_computed_in_chunks_beside_running_answers():
    sched, cache = scheduler(), Cache()
    sched.submit([generation([1, 2], max_tokens=8, ignore_eos=True)])
    sched.commit(cache.run(sched.step_plan()))
    sched.submit([generation([3] * 12, max_tokens=1, ignore_eos=True)])
    assert drain(sched, cache)[:3] == [[1, 5], [1, 5], [1, 2]]


def test_short_prompts_share_the_budget_of_a_step():
    sched, cache = scheduler(), Cache()
    sched.submit([generation([1, 2], max_tokens=1), generation([3, 4], max_tokens=1), generation([5, 6], max_tokens=1)])
    assert drain(sched, cache) == [[2, 2, 1], [1]]


def test_requests_are_served_by_priority_and_then_in_order_of_arrival():
    sched = scheduler(prefill_chunk=100)
    sent = [generation([i], max_tokens=1, priority=i % 2) for i in range(6)]
    for one in sent:
        sched.submit([one])
    sched.step_plan()
    assert sched.running == [sent[1], sent[3], sent[5], sent[0]]
    assert list(sched.waiting) == [sent[2], sent[4]]


def test_who_is_displaced_goes_on_where_it_was():
    """Two answers outgrow 6 blocks: the younger waits, with its tokens, and both end as if alone."""
    kv, cache = KVBlocks(6, block_tokens=BLOCK_TOKENS), Cache()
    sched = scheduler(kv)
    both = [generation([at] * 6, max_tokens=14, ignore_eos=True) for at in (1, 2)]
    sched.submit(both)
    seen = []
    while sched.has_work:
        sched.commit(cache.run(sched.step_plan()))
        seen.append((len(sched.running), both[1].num_output))
    assert sched.num_preempted >= 1
    assert any(running == 1 and 0 < tokens < 14 for running, tokens in seen), "the second waits with its tokens"
    assert [(one.tokens[6:], one.finish) for one in both] == [alone(one) for one in both]


def test_a_higher_priority_displaces_a_lower_one_when_the_batch_is_full():
    sched, cache = scheduler(max_batch=1), Cache()
    low = generation([1], max_tokens=6, ignore_eos=True)
    sched.submit([low])
    for _ in range(3):
        sched.commit(cache.run(sched.step_plan()))
    high = generation([2], max_tokens=2, ignore_eos=True, priority=1)
    sched.submit([high])
    sched.commit(cache.run(sched.step_plan()))
    assert (sched.running, list(sched.waiting)) == ([high], [low])
    drain(sched, cache)
    assert [(one.tokens[1:], one.finish) for one in (low, high)] == [alone(low), alone(high)]


def test_a_higher_priority_does_not_displace_in_vain():
    """The older of equal priority holds too much for the new one to fit whoever else goes."""
    kv, cache = KVBlocks(6, block_tokens=BLOCK_TOKENS), Cache()
    sched = scheduler(kv, prefill_chunk=100)
    first = generation([1] * 15, max_tokens=2, ignore_eos=True, priority=1)
    low = generation([2], max_tokens=9, ignore_eos=True)
    sched.submit([first])
    sched.submit([low])
    sched.commit(cache.run(sched.step_plan()))
    sched.submit([generation([3] * 12, max_tokens=1, priority=1)])
    sched.step_plan()
    assert sched.running == [first, low]


def prompt_steps(sched: Scheduler, prompt: list[int], *, salt: bytes = b"") -> list[list[int]]:
    one = generation(prompt, max_tokens=1)
    one.salt = salt
    sched.submit([one])
    return drain(sched, sched_cache)


sched_cache = Cache()


def test_a_beginning_that_was_computed_is_not_computed_again():
    sched = scheduler(PrefixBlocks(20, block_tokens=BLOCK_TOKENS), prefill_chunk=100)
    prompt = [*range(10), 1, 2, 3]
    assert prompt_steps(sched, prompt) == [[13]]
    assert prompt_steps(sched, prompt) == [[1]]  # three whole blocks are there, and the last token is always computed
    assert prompt_steps(sched, [*prompt[:9], 5, 5, 5]) == [[4]]
    assert prompt_steps(sched, [5, *prompt[1:]]) == [[13]]
    assert prompt_steps(sched, prompt[:8]) == [[4]]
    assert prompt_steps(sched, prompt, salt=b"other tenant") == [[13]]
    assert (sched.kv.num_hit_tokens, sched.kv.num_used) == (12 + 8 + 4, 0)


def test_the_beginning_unused_for_longest_makes_room():
    kv = PrefixBlocks(6, block_tokens=BLOCK_TOKENS)
    sched = scheduler(kv, prefill_chunk=100)
    old, new = [1] * 9, [2] * 9
    prompt_steps(sched, old)
    prompt_steps(sched, new)
    prompt_steps(sched, old)  # used again: `new` is now the older
    prompt_steps(sched, [3] * 13)  # four blocks: the two that are free, and those of `new`
    assert prompt_steps(sched, old) == [[1]]
    assert prompt_steps(sched, new) == [[9]]


def test_the_queue_is_bounded_by_requests():
    sched = scheduler(max_waiting=2)
    sched.submit([generation([1], max_tokens=1) for _ in range(MAX_BATCH + 2)])
    with pytest.raises(Overloaded, match=r"6 requests are waiting, the bound is 2"):
        sched.submit([generation([1], max_tokens=1)])


def test_the_queue_is_bounded_by_tokens_but_one_prompt_may_always_wait():
    sched = scheduler(max_waiting_tokens=10, max_batch=3)
    sched.submit([generation([1] * 20, max_tokens=1) for _ in range(3)])
    sched.step_plan()
    sched.commit([])
    assert len(sched.waiting) == 2
    with pytest.raises(Overloaded, match=r"40 prompt tokens are waiting, the bound is 10"):
        sched.submit([generation([1] * 20, max_tokens=1), generation([1], max_tokens=1)])


def test_who_would_wait_too_long_is_refused_at_once():
    """Two places; answers of 8 and 20 tokens run. The first in line begins after 8 steps, the second after 8 + 1 + 4."""
    sched, cache = scheduler(max_batch=2, prefill_chunk=100, max_wait_steps=12, max_waiting=9), Cache()
    sched.submit([generation([1], max_tokens=8, ignore_eos=True), generation([1], max_tokens=20, ignore_eos=True)])
    sched.commit(cache.run(sched.step_plan()))
    assert sched.wait_steps([generation([1], max_tokens=4)]) == 7  # one token of each answer is there
    sched.submit([generation([1], max_tokens=4, ignore_eos=True)])
    sched.submit([generation([1], max_tokens=4, ignore_eos=True)])
    with pytest.raises(Overloaded, match=r"the wait is about 17 steps, the bound is 12"):
        sched.submit([generation([1], max_tokens=4, ignore_eos=True)])
    drain(sched, cache)


def test_room_is_told_before_there_is_a_prompt():
    """As `submit` would for a single one, whatever it is: by the line's length, and by the wait of who came next."""
    one = generation([1], max_tokens=4, ignore_eos=True)
    sched = scheduler(max_batch=2, prefill_chunk=100, max_waiting=1)
    for _ in range(3):
        sched.check_room()
        sched.submit([generation([1], max_tokens=4, ignore_eos=True)])
    for refuse in (sched.check_room, lambda: sched.submit([one])):
        with pytest.raises(Overloaded, match="3 requests are waiting, the bound is 1"):
            refuse()
    sched, cache = scheduler(max_batch=1, prefill_chunk=100, max_wait_steps=9, max_waiting=9), Cache()
    sched.submit([generation([1], max_tokens=12, ignore_eos=True)])
    sched.commit(cache.run(sched.step_plan()))
    for refuse in (sched.check_room, lambda: sched.submit([one])):
        with pytest.raises(Overloaded, match="the wait is about 11 steps, the bound is 9"):
            refuse()
    for _ in range(2):
        sched.commit(cache.run(sched.step_plan()))
    sched.check_room()
    drain(sched, cache)


def test_answers_that_stop_early_are_expected_to():
    sched = scheduler(max_batch=1, prefill_chunk=100)
    for _ in range(200):
        sched.submit([generation([1], max_tokens=20)])
        sched.step_plan()
        sched.commit([EOS])  # the first of twenty tokens
    sched.submit([generation([1], max_tokens=20)])
    assert (
        sched.wait_steps([generation([1], max_tokens=20)]) == 1 + 2
    )  # its prompt, and what a share of 1/20 rounds up to


def test_a_request_is_taken_whole_or_not_at_all():
    sched = scheduler(max_waiting=0)
    sched.submit([generation([1], max_tokens=1)])
    with pytest.raises(Overloaded):
        sched.submit([generation([1], max_tokens=1) for _ in range(MAX_BATCH)])
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


@pytest.mark.parametrize("kind", [KVBlocks, PrefixBlocks])
def test_a_block_released_twice_is_found(kind):
    kv = kind(1, block_tokens=4)
    table = kv.open([1, 2, 3], room=3)
    assert kv.open([1, 2, 3], room=3) is None
    kv.release(table)
    with pytest.raises(RuntimeError, match="released twice"):
        kv.release(table)


def test_blocks_that_hold_no_sequence_are_our_bug():
    with pytest.raises(ValueError, match="do not hold a sequence of 24"):
        scheduler(KVBlocks(5, block_tokens=4))
