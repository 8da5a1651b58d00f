"""Sampling is exact: against closed forms (chi-square) and against transformers' processors."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from llmc.runtimes.reference.sampling import draw as draw_of_kernels
from llmc.runtimes.serving import sampler as module
from llmc.runtimes.serving.generation import Generation, Sampling, generator_for
from llmc.runtimes.serving.sampler import Sampler

DRAWS = 10_000


def generation(prompt=(0,), output=(), *, seed: int = 0, **sampling) -> Generation:
    return Generation(
        tokens=[*prompt, *output],
        num_prompt=len(prompt),
        max_tokens=100,
        sampling=Sampling(**sampling),
        rng=random.Random(seed),
    )


def draw(logits: torch.Tensor, *, kernel: module.Draw | None = None, **sampling) -> Counter[int]:
    """DRAWS tokens from one row of logits [V]: rows of a batch, several times over one stream of random numbers."""
    one = generation(**sampling)
    rows = 500
    sampler, batch = Sampler(len(logits), draw=kernel), logits.expand(rows, -1)
    counts: Counter[int] = Counter()
    for _ in range(DRAWS // rows):
        counts.update(s.token for s in sampler.sample(batch, [one] * rows) if s is not None)
    return counts


def chi_square_excess(counts: Counter[int], expected: torch.Tensor) -> float:
    """(chi² - its mean) / its standard deviation, over the tokens that are possible. Impossible ones must not occur."""
    possible = [token for token in range(len(expected)) if expected[token] > 0]
    assert set(counts) <= set(possible)
    want = [float(expected[token]) * DRAWS for token in possible]
    chi2 = sum((counts[token] - w) ** 2 / w for token, w in zip(possible, want, strict=True))
    dof = max(len(possible) - 1, 1)
    return (chi2 - dof) / math.sqrt(2 * dof)


def transformers_probabilities(
    logits: torch.Tensor, *, temperature=1.0, top_k=None, top_p=None, min_p=None
) -> torch.Tensor:
    """The distribution [V] that transformers would sample from."""
    from transformers.generation import logits_process as hf

    scores, tokens = logits[None].double(), torch.zeros(1, 1, dtype=torch.long)
    scores = hf.TemperatureLogitsWarper(temperature)(tokens, scores)
    if top_k is not None:
        scores = hf.TopKLogitsWarper(top_k)(tokens, scores)
    if top_p is not None:
        scores = hf.TopPLogitsWarper(top_p)(tokens, scores)
    if min_p is not None:
        scores = hf.MinPLogitsWarper(min_p)(tokens, scores)
    return scores.softmax(-1)[0]


LOGITS = torch.randn(50, generator=torch.Generator().manual_seed(5)) * 2
WIDE = torch.randn(700, generator=torch.Generator().manual_seed(6))

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 1000},
    {"top_p": 0.6},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_follow_the_distribution_of_transformers(settings):
    assert chi_square_excess(draw(LOGITS, **settings), transformers_probabilities(LOGITS, **settings)) < 4


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_that_a_kernel_draws_follow_it_too(settings):
    """By its eager twin, to which tests/kernels hold the kernel."""
    counts = draw(LOGITS, kernel=draw_of_kernels, **settings)
    assert chi_square_excess(counts, transformers_probabilities(LOGITS, **settings)) < 4


def test_a_kernel_draws_the_same_tokens_where_nothing_is_filtered():
    assert draw(WIDE, kernel=draw_of_kernels) == draw(WIDE)
    assert draw(LOGITS, kernel=draw_of_kernels, top_p=0.0) == draw(LOGITS, top_p=0.0)


@pytest.mark.parametrize("settings", [{"top_p": 0.99}, {"top_k": 30}, {"min_p": 0.002}], ids=str)
def test_the_distribution_is_right_where_the_first_candidates_are_not_enough(settings, monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", (4, 8))
    expected = transformers_probabilities(LOGITS, **settings)
    assert int((expected > 0).sum()) > max(module.CANDIDATES)
    assert chi_square_excess(draw(LOGITS, **settings), expected) < 4


def test_the_distribution_is_right_over_several_blocks():
    assert len(WIDE) > 2 * module.BLOCK
    assert chi_square_excess(draw(WIDE), WIDE.softmax(-1)) < 4


def test_the_chi_square_test_sees_a_wrong_temperature():
    assert chi_square_excess(draw(LOGITS, temperature=1.1), LOGITS.softmax(-1)) > 8


def test_top_p_zero_keeps_the_most_likely_token():
    assert set(draw(LOGITS, top_p=0.0)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_no_temperature_takes_the_most_likely_token(temperature):
    assert Sampler(50).sample(LOGITS[None], [generation(temperature=temperature)])[0].token == int(LOGITS.argmax())


def test_the_repetition_penalty_is_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    one = generation([1, 2, 3], [4, 4, 5], repetition_penalty=1.7)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([one.tokens]), LOGITS[None].clone())
    torch.testing.assert_close(module._adjusted(LOGITS[None], [one]), expected)


def test_frequency_and_presence_penalties_count_the_answer_only():
    one = generation([4, 4, 9], [4, 7, 7], frequency_penalty=0.5, presence_penalty=0.25)
    expected = LOGITS.clone()
    expected[4] -= 0.5 * 1 + 0.25
    expected[7] -= 0.5 * 2 + 0.25
    torch.testing.assert_close(module._adjusted(LOGITS[None], [one])[0], expected)


def test_penalties_follow_the_answer_as_it_grows():
    one = generation([1], [2], frequency_penalty=1.0, repetition_penalty=1.1)
    module._adjusted(LOGITS[None], [one])
    one.tokens += [2, 3]
    fresh = generation([1], [2, 2, 3], frequency_penalty=1.0, repetition_penalty=1.1)
    torch.testing.assert_close(module._adjusted(LOGITS[None], [one]), module._adjusted(LOGITS[None], [fresh]))


def test_logit_bias_moves_and_bans_tokens():
    best = int(LOGITS.argmax())
    assert set(draw(LOGITS, logit_bias=((11, 100.0),))) == {11}
    assert best not in draw(LOGITS, logit_bias=((best, -100.0),))
    expected = LOGITS.clone()
    expected[11] += 2
    assert chi_square_excess(draw(LOGITS, logit_bias=((11, 2.0),)), expected.softmax(-1)) < 4


def test_the_logits_themselves_are_left_alone():
    logits = LOGITS[None].clone()
    Sampler(50).sample(logits, [generation(logit_bias=((1, 5.0),), repetition_penalty=2.0, temperature=0.5)])
    torch.testing.assert_close(logits[0], LOGITS)


def test_log_probabilities_are_the_models_own():
    one = generation(temperature=0.3, logit_bias=((3, 100.0),), num_logprobs=4)
    sampled = Sampler(50).sample(LOGITS[None], [one])[0]
    expected = LOGITS.double().log_softmax(-1)
    assert sampled.token == 3
    assert sampled.logprob == pytest.approx(float(expected[3]), abs=1e-5)
    assert [token for token, _ in sampled.top] == LOGITS.topk(4).indices.tolist()
    assert [value for _, value in sampled.top] == pytest.approx(expected.topk(4).values.tolist(), abs=1e-5)


def test_only_who_asks_gets_log_probabilities():
    generations = [generation(), generation(num_logprobs=0), generation(num_logprobs=2)]
    plain, chosen, both = Sampler(50).sample(LOGITS.expand(3, -1), generations)
    assert (plain.logprob, plain.top) == (None, ())
    assert chosen.logprob is not None
    assert chosen.top == ()
    assert len(both.top) == 2


def test_ids_beyond_the_vocabulary_are_never_chosen():
    logits = torch.zeros(1, 64)
    logits[0, 50:] = 100
    tokens = [Sampler(50).sample(logits, [generation(seed=s)])[0].token for s in range(200)]
    assert max(tokens) < 50


MIXED = [
    {"temperature": 0},
    {},
    {"top_p": 0.9},
    {"top_k": 5, "temperature": 1.5},
    {"min_p": 0.3},
    {"repetition_penalty": 1.3},
    {"top_p": 0.999, "temperature": 2.0},
    {"top_k": 1500},
]


def test_a_token_does_not_depend_on_who_shares_the_batch():
    logits = torch.randn(len(MIXED), 3000, generator=torch.Generator().manual_seed(7)).bfloat16().float()  # with ties
    sampler = Sampler(3000)
    for seed in range(20):
        together = sampler.sample(logits, [generation(seed=seed, num_logprobs=3, **s) for s in MIXED])
        for row, settings in enumerate(MIXED):
            apart = sampler.sample(logits[row : row + 1], [generation(seed=seed, num_logprobs=3, **settings)])
            assert apart == [together[row]]


def test_the_same_seed_gives_the_same_numbers_and_each_choice_its_own():
    streams = [generator_for(seed, choice=choice).random() for seed in (1, -1, 2, 2**63 - 1) for choice in range(4)]
    again = [generator_for(seed, choice=choice).random() for seed in (1, -1, 2, 2**63 - 1) for choice in range(4)]
    assert streams == again
    assert len(set(streams)) == len(streams)
    assert generator_for(None, choice=0).random() != generator_for(None, choice=0).random()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_usable_numbers_is_reported_and_spares_the_others(bad, temperature):
    logits = LOGITS.expand(2, -1).clone()
    logits[0, 20] = bad
    spoilt, fine = Sampler(50).sample(logits, [generation(temperature=temperature)] * 2)
    assert spoilt is None
    assert fine is not None


def test_the_extremes_of_the_random_number_stay_in_the_vocabulary():
    weights = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]]).expand(4, -1)
    uniform = torch.tensor([0.0, 0.25, 1 - 2**-53, 1.0], dtype=torch.float64)
    assert module._invert(weights, uniform).tolist() == [1, 3, 3, 3]
