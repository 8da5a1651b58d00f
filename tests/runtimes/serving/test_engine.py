"""The engine thread: answers do not depend on company, and whatever happens nobody is left waiting."""

from __future__ import annotations

import queue
import random
import threading
import time

import numpy as np
import pytest

from llmc.runtimes.serving.engine import Delta, EngineDown
from llmc.runtimes.serving.generation import Generation, Sampling, generator_for
from llmc.runtimes.serving.scheduler import Overloaded
from llmc.runtimes.serving.text import TextStream


class Inbox:
    """Collects the deltas of one request."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[list[Delta]] = queue.SimpleQueue()

    def post(self, deltas: list[Delta]) -> None:
        self.queue.put(deltas)

    def finished(self, num_choices: int = 1) -> list[Delta]:
        """All deltas until every choice is finished."""
        deltas: list[Delta] = []
        while sum(delta.finish is not None for delta in deltas) < num_choices:
            deltas += self.queue.get(timeout=10)
        return deltas


def generation(
    prompt: list[int], *, vocabulary=None, index: int = 0, max_tokens: int = 8, stops=(), **sampling
) -> Generation:
    return Generation(
        tokens=list(prompt),
        num_prompt=len(prompt),
        max_tokens=max_tokens,
        sampling=Sampling(**sampling),
        eos=frozenset([256]),
        text=TextStream(vocabulary.piece, stops) if vocabulary is not None else None,
        index=index,
        rng=generator_for(sampling.get("seed"), choice=index),
    )


def tokens_of(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.tokens]


MIXED = [
    {"temperature": 0},
    {"seed": 1},
    {"seed": 2, "top_p": 0.9},
    {"seed": 3, "temperature": 2.0, "top_k": 9},
    {"seed": 4, "min_p": 0.1, "num_logprobs": 2},
    {"seed": 5, "repetition_penalty": 1.5, "frequency_penalty": 0.5, "temperature": 0.4},
]


def test_concurrent_requests_get_the_tokens_they_would_get_alone(make):
    pick = random.Random(0)
    prompts = [[pick.randrange(256) for _ in range(pick.randint(1, 40))] for _ in range(24)]
    wishes = [{**MIXED[at % len(MIXED)], "max_tokens": pick.randint(1, 30)} for at in range(len(prompts))]

    def run(parts, order: list[int]) -> dict[int, list[int]]:
        inboxes = {at: Inbox() for at in order}
        for at in order:
            parts.engine.submit([generation(prompts[at], **wishes[at])], inboxes[at].post)
        return {at: tokens_of(inboxes[at].finished()) for at in order}

    alone = {at: run(make(max_batch=1, prefill_chunk=64), [at])[at] for at in range(len(prompts))}
    together = make(max_batch=5, prefill_chunk=7)
    assert run(together, list(alone)) == alone
    assert together.runner.largest_batch > 3
    assert together.wait_empty()
    staged = make(max_batch=5, prefill_chunk=7, steps_under_way=3)
    assert run(staged, list(alone)) == alone
    assert staged.wait_empty()


def test_as_many_steps_are_under_way_as_there_are_stages(make):
    gate = threading.Event()
    parts = make(max_batch=4, steps_under_way=3, gate=gate)
    inboxes = [Inbox() for _ in range(7)]
    for at, inbox in enumerate(inboxes):
        parts.engine.submit([generation([at, 1], max_tokens=20, seed=at)], inbox.post)
    gate.set()
    for inbox in inboxes:
        assert inbox.finished()[-1].finish in ("length", "stop")
    assert parts.runner.most_begun == 3
    assert not parts.runner.begun
    assert parts.wait_empty()


def test_churn_leaves_nothing_behind(make):
    """Submits, cancels and finishes from several threads at once; then every block is free and nothing is remembered."""
    parts = make(max_batch=3, prefill_chunk=8, max_waiting=6, step_s=0.0005)
    outcomes: list[str] = []

    def client(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(25):
            inbox = Inbox()
            group = [
                generation(
                    [pick.randrange(256)] * pick.randint(1, 20), index=at, max_tokens=pick.randint(1, 12), seed=seed
                )
                for at in range(pick.randint(1, 3))
            ]
            try:
                parts.engine.submit(group, inbox.post)
            except Overloaded:
                outcomes.append("refused")
                continue
            if pick.random() < 0.4:
                time.sleep(pick.random() * 0.005)
                parts.engine.cancel(group)
                outcomes.append("cancelled")
            else:
                assert all(delta.error is None for delta in inbox.finished(len(group)))
                outcomes.append("finished")

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 150
    assert set(outcomes) == {"refused", "cancelled", "finished"}
    assert parts.wait_empty()
    assert parts.engine.health().status == "ok"


def test_choices_of_a_request_come_back_under_their_index(make, vocabulary):
    parts, inbox = make(), Inbox()
    choices = [generation([1, 2], index=at, seed=7, vocabulary=vocabulary) for at in range(3)]
    parts.engine.submit(choices, inbox.post)
    deltas = inbox.finished(3)
    answers = [tokens_of(deltas, index) for index in range(3)]
    assert len({tuple(answer) for answer in answers}) == 3
    assert all(len(answer) == 8 or answer[-1] == 256 for answer in answers)


def test_a_cancelled_request_stops_computing(make):
    parts, inbox = make(step_s=0.005, max_seq_len=10_000), Inbox()
    one = generation([1], max_tokens=9_000, temperature=0)
    one.eos = frozenset()
    parts.engine.submit([one], inbox.post)
    inbox.queue.get(timeout=5)
    parts.engine.cancel([one])
    assert parts.wait_empty()
    steps = parts.runner.num_steps
    time.sleep(0.05)
    assert parts.runner.num_steps <= steps + 1
    assert one.finish == "cancelled"


def test_cancelling_while_a_step_runs_frees_its_blocks_and_delivers_nothing(make):
    gate = threading.Event()
    parts, inbox = make(gate=gate, max_batch=1), Inbox()
    one = generation([1, 2, 3])
    parts.engine.submit([one], inbox.post)
    deadline = time.monotonic() + 5
    while parts.engine.health().num_running == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    parts.engine.cancel([one])
    after = Inbox()
    parts.engine.submit([generation([4, 5], temperature=0)], after.post)
    gate.set()
    assert after.finished()
    assert inbox.queue.empty()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_step_gives_every_request_an_error_and_takes_no_more(make, caplog):
    gate = threading.Event()
    parts = make(fault=RuntimeError("out of memory"), gate=gate, max_batch=1)
    inboxes = [Inbox(), Inbox()]
    for inbox in inboxes:
        parts.engine.submit([generation([1])], inbox.post)
    gate.set()
    for inbox in inboxes:
        (delta,) = inbox.finished()
        assert (delta.finish, delta.error) == ("error", "the engine has failed; the server's log says why")
    assert parts.engine.health().status == "failed"
    with pytest.raises(EngineDown, match="has failed"):
        parts.engine.submit([generation([1])], inboxes[0].post)
    assert "out of memory" in caplog.text


def test_a_runner_that_returns_too_few_rows_is_a_failure_not_a_hang(make, monkeypatch):
    parts, inbox = make(start=False), Inbox()
    step = parts.runner.step
    monkeypatch.setattr(parts.runner, "step", lambda work: step(work)[:0])
    parts.engine._sampler.sample = lambda logits, generations: []
    parts.engine.start()
    parts.engine.submit([generation([1])], inbox.post)
    assert inbox.finished()[-1].finish == "error"


def test_a_stuck_step_gives_errors_and_red_health_until_it_returns(make):
    gate = threading.Event()
    parts, inbox = make(gate=gate, stall_s=0.05), Inbox()
    parts.engine.submit([generation([1])], inbox.post)
    time.sleep(0.1)
    assert parts.engine.health().status == "stalled"
    parts.engine.end_if_stalled()
    assert inbox.queue.empty(), "once may be a suspended process"
    parts.engine.end_if_stalled()
    assert inbox.finished()[-1].error == "the engine makes no progress"
    with pytest.raises(EngineDown, match="no progress"):
        parts.engine.submit([generation([1])], inbox.post)
    gate.set()
    assert parts.wait_empty()
    time.sleep(0.02)
    assert parts.engine.health().status == "ok"
    parts.engine.submit([generation([1])], inbox.post)
    assert inbox.finished()[-1].finish in ("stop", "length")


def test_an_idle_engine_is_healthy(make):
    parts = make(stall_s=0.02)
    time.sleep(0.06)
    assert parts.engine.health().status == "ok"
    assert parts.engine.health().step_age_s == 0


def test_stopping_ends_what_is_left_with_an_error(make):
    parts, inbox = make(step_s=0.01, max_seq_len=10_000), Inbox()
    one = generation([1], max_tokens=9_000)
    one.eos = frozenset()
    parts.engine.submit([one], inbox.post)
    inbox.queue.get(timeout=5)
    parts.engine.stop()
    assert inbox.finished()[-1].error == "the server is stopping"
    assert not parts.engine._thread.is_alive()
    with pytest.raises(EngineDown):
        parts.engine.submit([generation([1])], inbox.post)


def test_a_row_of_nan_ends_its_request_with_an_error_and_no_other(make, monkeypatch):
    parts = make(max_batch=2)
    compute = parts.runner.compute

    def poisoned(chunk):
        row = compute(chunk)
        return np.full_like(row, np.nan) if parts.runner.cache[chunk.blocks[0], 0] == 66 else row

    monkeypatch.setattr(parts.runner, "compute", poisoned)
    bad, good = Inbox(), Inbox()
    parts.engine.submit([generation([66, 1])], bad.post)
    parts.engine.submit([generation([67, 1])], good.post)
    assert "no usable numbers" in bad.finished()[-1].error
    assert good.finished()[-1].error is None
    assert parts.engine.health().status == "ok"


def test_a_full_queue_refuses_and_says_when_to_come_back(make):
    gate = threading.Event()
    parts, inbox = make(max_batch=1, max_waiting=1, gate=gate), Inbox()
    for _ in range(2):
        parts.engine.submit([generation([1])], inbox.post)
    with pytest.raises(Overloaded):
        parts.engine.submit([generation([1])], inbox.post)
    assert parts.engine.retry_after_s() == 1
    gate.set()
    inbox.finished(2)
    assert parts.engine.retry_after_s() >= 1
