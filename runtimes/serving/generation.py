"""One answer in the making: its tokens, how to sample the next one, when to stop."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from .kv import BlockTable
from .text import TextStream

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one token is chosen from the logits; `sampler.py` says in which order these apply."""

    temperature: float = 1.0  # 0 takes the most likely token; so does anything below 1e-5, where logits / t overflows
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0  # on tokens of prompt and answer, multiplicative (CTRL, arXiv:1909.05858)
    frequency_penalty: float = 0.0  # on tokens of the answer, times their count
    presence_penalty: float = 0.0  # on tokens of the answer, once
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, added to its logit)
    num_logprobs: int | None = None  # None: no log-probabilities; 0: of the chosen token only
    seed: int | None = None  # None: a fresh one from the operating system

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token, with its log-probability and the most likely tokens if asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False, slots=True)
class Generation:
    """Prompt and answer of one choice of one request. The scheduler owns the fields below `salt`."""

    tokens: list[int]  # the prompt, then the answer as it grows
    num_prompt: int
    max_tokens: int  # of the answer
    sampling: Sampling = Sampling()
    eos: frozenset[int] = frozenset()  # tokens that end the answer
    text: TextStream | None = None  # spells the answer and watches for stop strings; None where only tokens matter
    index: int = 0  # which choice of its request
    rng: random.Random = field(default_factory=random.Random)
    priority: int = 0  # higher goes first, and displaces lower
    salt: bytes = b""  # cached prefixes are shared within one salt only

    number: int = 0  # order of arrival
    blocks: BlockTable | None = None  # None while it waits
    num_computed: int = 0  # leading tokens whose keys and values are in the cache
    finish: FinishReason | None = None
    sampler_state: Any = None  # the sampler's own memory of this generation

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    def rank(self) -> tuple[int, int]:
        """Who runs first: higher priority, then earlier arrival."""
        return -self.priority, self.number

    @property
    def is_decoding(self) -> bool:
        """Whether all but its newest token are computed, and that one was sampled."""
        return self.num_computed == len(self.tokens) - 1 >= self.num_prompt


def generator_for(seed: int | None, *, choice: int) -> random.Random:
    """The random numbers of one choice: choice 0 has the seed itself, the others seeds far from it.

    The step is 2**64 divided by the golden ratio, which spreads consecutive choices evenly (as in splitmix64). The sum is
    taken modulo 2**64 because Python seeds with the absolute value, and -1 must not repeat 1.
    """
    if seed is None:
        return random.Random()
    return random.Random((seed + choice * 0x9E3779B97F4A7C15) % 2**64)
