"""Drawing tokens from scores, in plain PyTorch: temperature, top-k, top-p and min-p of each row."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(scores: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """A token [N] for each row of scores [N, V]; the filters [N] are applied in the order of runtimes/serving/sampler.py.

    Kept are the `top_k` most likely tokens, of these the fewest that reach `top_p` of their sum, of these the ones at least `min_p` times
    as likely as the most likely; tokens that are as likely as the last of them stay, too. The first is taken, in the order of the
    vocabulary, at which the sum of what is kept passes `uniform` of the whole.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.to(wide)
    weights = ((scores - scores.amax(-1, keepdim=True)) / temperature.to(wide)[:, None]).exp()
    ranked = weights.sort(-1, descending=True).values  # [N, V]
    least_of_k = ranked.gather(-1, top_k.clamp(1, scores.shape[-1])[:, None] - 1)
    within = ranked.where(ranked >= least_of_k, 0.0)
    sums = within.cumsum(-1)
    is_reached = sums >= top_p.to(wide)[:, None] * sums[:, -1:]
    least_of_p = ranked.gather(-1, is_reached.to(torch.uint8).argmax(-1, keepdim=True))
    least = torch.maximum(torch.maximum(least_of_k, least_of_p), min_p.to(wide)[:, None])
    least = least.where(top_p[:, None] < 1, torch.maximum(least_of_k, min_p.to(wide)[:, None]))
    sums = weights.where(weights >= least, 0.0).cumsum(-1)
    is_passed = (sums > uniform.to(wide)[:, None] * sums[:, -1:]) | (sums >= sums[:, -1:])
    return is_passed.to(torch.uint8).argmax(-1)
