"""Experts of a server on several ranks: between them they compute each visit once, and rows that nobody has written never count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmc.runtimes.pytorch.experts import grouped_linear
from llmc.runtimes.pytorch.parallel.expert import OwnVisits, own_visits

NUM_WHOLE, PER_TOKEN = 8, 3


def chosen(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, the experts that they visit, and a matrix an expert."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(num_tokens, NUM_WHOLE, generator=generator)
    weight = torch.randn(NUM_WHOLE, 5, 4, generator=generator)
    return torch.randn(num_tokens, 4, generator=generator), scores.topk(PER_TOKEN).indices, weight


@pytest.mark.parametrize("num_tokens", [1, 2, 40])
@pytest.mark.parametrize("groups", [2, 8])
def test_the_sum_over_groups_is_what_all_experts_give(groups: int, num_tokens: int) -> None:
    tokens, experts, weight = chosen(num_tokens)
    held = NUM_WHOLE // groups
    total = torch.zeros(num_tokens * PER_TOKEN, 5)
    for first in range(0, NUM_WHOLE, held):
        visits = own_visits(experts, first=first, num_experts=held, num_whole=NUM_WHOLE)
        assert torch.equal(experts.flatten()[visits.order], first + visits.expert)
        y = grouped_linear(tokens[visits.order // PER_TOKEN], weight[first : first + held], visits.ends)
        total += visits.put_back(y)
    expected = torch.einsum("nd,nxfd->nxf", tokens, weight[experts]).flatten(0, 1)
    torch.testing.assert_close(total, expected)


def test_rows_behind_the_last_expert_count_for_nothing() -> None:
    """As on a GPU, where the host does not wait for their number."""
    tokens, experts, weight = chosen(7)
    counted = own_visits(experts, first=4, num_experts=2, num_whole=NUM_WHOLE)
    expert, order = ((experts.flatten() - 4) % NUM_WHOLE).sort(stable=True)
    visits = OwnVisits(order, expert.clamp(max=1), counted.ends, counted.num_visits)
    y = grouped_linear(tokens[order // PER_TOKEN], weight[4:6], visits.ends)
    assert len(y) == 7 * PER_TOKEN > len(counted.order)
    y[int(visits.ends[-1]) :] = torch.nan
    expected = counted.put_back(grouped_linear(tokens[counted.order // PER_TOKEN], weight[4:6], counted.ends))
    assert torch.equal(visits.put_back(y), expected)
