"""Logits to tokens.

For each generation, in this order (where they overlap, transformers' order and meaning):

1. repetition penalty   logit / r if logit > 0 else logit * r     tokens of prompt and answer
2. frequency, presence  logit - f * count - p * (count > 0)       tokens of the answer
3. logit bias           logit + b
4. temperature          logit / t                                 t = 0: the most likely token, and nothing below applies
5. top-k                the k most likely
6. top-p                of those, renormalised, the fewest that reach p: a token stays while those above it sum to < p
7. min-p                of those, the ones at least m times as likely as the most likely

A token is then drawn by inverting the cumulative distribution at one uniform number from the generation's own generator. Steps 4 to 7 and
the draw may be a kernel of the program's (kernels/sampling.py of a build), which goes through the vocabulary in another order. Every operation works on rows alone, so a generation's tokens do not depend on who shares its batch.

Log-probabilities are the model's own: log_softmax of the logits as they came in.

Dims: N rows, V vocabulary, K candidates kept by the filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from .generation import Generation, Sampled

CANDIDATES = (64, 1024)  # filters look at so many of the most likely tokens before they sort the whole vocabulary
BLOCK = 256  # the cumulative sum is taken over blocks of this size, then inside one
Draw = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""A token [N] for scores [N, V], temperature, top-k, top-p, min-p and a uniform number [N] each (runtimes/reference/sampling.py)."""
LEAST_LOGPROB = -9999.0  # what OpenAI's API says for "very unlikely"; minus infinity is not JSON


class Sampler:
    """Samples tokens below `num_tokens`; ids above it (a padded vocabulary) have no text and are never chosen."""

    def __init__(self, num_tokens: int, *, draw: Draw | None = None) -> None:
        self.num_tokens = num_tokens
        self._draw = draw
        self._buffer = torch.empty(0, 0)

    @torch.inference_mode()
    def sample(self, logits: Tensor, generations: list[Generation]) -> list[Sampled | None]:
        """One token for each row of logits [N, V]; None where the model gave no usable numbers."""
        if not generations:
            return []
        logits = logits[:, : self.num_tokens].float()
        scores = _adjusted(logits, generations)
        top, tokens = scores.max(-1)  # [N], [N]
        is_usable = top.isfinite().tolist()  # NaN and inf anywhere in a row show in its maximum
        rows = [row for row, g in enumerate(generations) if is_usable[row] and not g.sampling.is_greedy]
        if rows and self._draw is not None:
            tokens[rows] = _drawn_by(self._draw, _rows(scores, rows), [generations[row] for row in rows])
        elif rows:
            weights = self._zeros(len(rows), like=scores)
            torch.sub(_rows(scores, rows), _rows(top, rows)[:, None], out=weights[:, : scores.shape[-1]])
            tokens[rows] = _drawn(weights, scores.shape[-1], [generations[row] for row in rows])
        logprobs = _logprobs(logits, tokens, generations)
        return [
            Sampled(token, *logprobs.get(row, (None, ()))) if is_usable[row] else None
            for row, token in enumerate(tokens.tolist())
        ]

    def _zeros(self, num_rows: int, *, like: Tensor) -> Tensor:
        """Room for weights, whole blocks wide, zero beyond the vocabulary; kept, as fresh memory costs as much as exp."""
        width = like.shape[-1] + -like.shape[-1] % BLOCK
        if self._buffer.shape[0] < num_rows or self._buffer.shape[1] != width:
            self._buffer = like.new_zeros(num_rows, width)
        return self._buffer[:num_rows]


class RowSampler(Sampler):
    """Samples each row by itself: vectorised functions may round an element by where in memory it lies."""

    def sample(self, logits: Tensor, generations: list[Generation]) -> list[Sampled | None]:
        found: list[Sampled | None] = []
        for row, generation in enumerate(generations):
            found += super().sample(logits[row : row + 1], [generation])
        return found


def _adjusted(logits: Tensor, generations: list[Generation]) -> Tensor:
    """Penalties and biases; a copy only if there are any."""
    adjust = [row for row, g in enumerate(generations) if _has_penalty(g) or g.sampling.logit_bias]
    if not adjust:
        return logits
    scores = logits.clone()
    for row in adjust:
        if _has_penalty(generations[row]):
            _penalise(scores[row], generations[row])
        if bias := generations[row].sampling.logit_bias:
            tokens, values = zip(*bias, strict=True)
            scores[row].index_add_(
                0, _long(tokens, scores), torch.tensor(values, dtype=scores.dtype, device=scores.device)
            )
    return scores


def _has_penalty(generation: Generation) -> bool:
    s = generation.sampling
    return s.repetition_penalty != 1 or s.frequency_penalty != 0 or s.presence_penalty != 0


class _Counts:
    """How often each token occurs, kept up to date instead of recounted: in the answer, and in all tokens."""

    def __init__(self, generation: Generation) -> None:
        self.seen = set(generation.tokens[: generation.num_prompt])
        self.output: Counter[int] = Counter()
        self.num_counted = generation.num_prompt

    def update(self, generation: Generation) -> None:
        new = generation.tokens[self.num_counted :]
        self.output.update(new)
        self.seen.update(new)
        self.num_counted += len(new)


def _penalise(scores: Tensor, generation: Generation) -> None:
    """Penalties on one row [V], in place."""
    if generation.sampler_state is None:
        generation.sampler_state = _Counts(generation)
    counts: _Counts = generation.sampler_state
    counts.update(generation)
    sampling = generation.sampling
    if sampling.repetition_penalty != 1:
        seen = _long([token for token in counts.seen if token < len(scores)], scores)
        values = scores[seen]
        scores[seen] = torch.where(
            values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
        )
    if counts.output:
        amounts = [sampling.frequency_penalty * n + sampling.presence_penalty for n in counts.output.values()]
        scores.index_add_(
            0, _long(list(counts.output), scores), -torch.tensor(amounts, dtype=scores.dtype, device=scores.device)
        )


def _drawn(weights: Tensor, num_tokens: int, generations: list[Generation]) -> Tensor:
    """A random token for each row. `weights` [N, V, rounded up to blocks] come as scores whose maxima are 0."""
    uniform = torch.tensor([g.rng.random() for g in generations], dtype=torch.float64, device=weights.device)
    weights[:, :num_tokens].div_(_column([g.sampling.temperature for g in generations], weights)).exp_()
    tokens = torch.empty(len(generations), dtype=torch.long, device=weights.device)
    plain = [row for row, g in enumerate(generations) if not _is_filtered(g)]
    if plain:
        tokens[plain] = _invert(_rows(weights, plain), uniform[plain])
    rows = [row for row, g in enumerate(generations) if _is_filtered(g)]
    for size in (*(size for size in CANDIDATES if size < num_tokens), num_tokens):
        if rows:
            ids, kept = _kept(_rows(weights[:, :num_tokens], rows), [generations[row] for row in rows], size)
            tokens[rows] = ids.gather(-1, _invert(kept, uniform[rows])[:, None])[:, 0]
            rows = [row for row, last in zip(rows, kept[:, -1].tolist(), strict=True) if last > 0]  # kept them all
    return tokens


def _drawn_by(draw: Draw, scores: Tensor, generations: list[Generation]) -> Tensor:
    """A random token for each row of scores [N, V], by a kernel."""
    sampling = [g.sampling for g in generations]
    numbers = torch.tensor(
        [
            [s.temperature for s in sampling],
            [1.0 if s.top_p is None else s.top_p for s in sampling],
            [s.min_p or 0.0 for s in sampling],
            [g.rng.random() for g in generations],
        ],
        dtype=torch.float32,
    ).to(scores.device)  # all in one copy
    temperature, top_p, min_p, uniform = numbers.unbind()
    top_k = _long([s.top_k or scores.shape[-1] for s in sampling], scores)
    return draw(scores, temperature, top_k, top_p, min_p, uniform)


def _is_filtered(generation: Generation) -> bool:
    s = generation.sampling
    return s.top_k is not None or s.top_p is not None or s.min_p is not None


def _kept(weights: Tensor, generations: list[Generation], size: int) -> tuple[Tensor, Tensor]:
    """The `size` most likely tokens [N, K] from the top down, and their weights [N, K], zero where a filter removed them.

    Weights [N, V] are relative to the most likely token, which has 1.
    """
    kept, ids = weights.topk(size)
    rank = torch.arange(size, device=weights.device)
    top_k = torch.tensor([g.sampling.top_k or weights.shape[-1] for g in generations], device=weights.device)[:, None]
    kept = kept.masked_fill(rank >= top_k, 0)
    sums = kept.double().cumsum(-1)
    total = torch.where(top_k <= size, sums[:, -1:], weights.sum(-1, keepdim=True))  # what top-p is a share of
    top_p = _column([1.0 if g.sampling.top_p is None else g.sampling.top_p for g in generations], sums)
    is_beyond = (sums - kept >= top_p * total) & (top_p < 1) & (rank > 0)
    min_p = _column([g.sampling.min_p or 0.0 for g in generations], kept)
    return ids, kept.masked_fill(is_beyond | (kept < min_p), 0)


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index at which the cumulative sum of weights [N, K] passes uniform [N] of its total; never a weight of zero."""
    rows = torch.arange(len(weights), device=weights.device)
    if ragged := -weights.shape[-1] % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, ragged))
    blocks = weights.unflatten(-1, (-1, BLOCK))
    ends = blocks.sum(-1).double().cumsum(-1)  # [N, blocks]
    target = uniform * ends[:, -1]
    block = _first_above(ends, target)
    inside = blocks[rows, block].double()  # [N, BLOCK]
    rest = target - torch.where(block > 0, ends[rows, block - 1], 0.0)
    return block * BLOCK + _first_above(inside.cumsum(-1), rest)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """First index with sums [N, K] > target [N]; where rounding leaves none, the first that has the whole sum."""
    is_last = sums >= sums[:, -1:]
    return ((sums > target[:, None]) | is_last).to(torch.uint8).argmax(-1)


def _logprobs(
    logits: Tensor, tokens: Tensor, generations: list[Generation]
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """row -> (log-probability of its token, the most likely tokens with theirs), for the rows that want them."""
    rows = [row for row, g in enumerate(generations) if g.sampling.num_logprobs is not None]
    if not rows:
        return {}
    num_top = max(generations[row].sampling.num_logprobs or 0 for row in rows)
    logprobs = _rows(logits, rows).log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[rows][:, None]).clamp(min=LEAST_LOGPROB)[:, 0].tolist()
    values, ids = logprobs.topk(min(num_top, logprobs.shape[-1]))
    found = {}
    for at, (row, top_ids, top_values) in enumerate(
        zip(rows, ids.tolist(), values.clamp(min=LEAST_LOGPROB).tolist(), strict=True)
    ):
        wanted = generations[row].sampling.num_logprobs or 0
        found[row] = (chosen[at], tuple(zip(top_ids, top_values, strict=True))[:wanted])
    return found


def _rows(values: Tensor, rows: list[int]) -> Tensor:
    """These rows; no copy if they are all."""
    return values if len(rows) == len(values) else values[rows]


def _column(values: list[float], like: Tensor) -> Tensor:
    """A column [N, 1] of the same type."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _long(values: list[int] | tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=like.device)
