"""The pieces of all ranks are the whole tensor, each number as often as its piece says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtimes.pytorch.parallel.cuts import (
    Columns,
    Cut,
    Cuts,
    EachExpert,
    Rows,
    Sections,
    Whole,
    box,
    clear_padding,
    load_whole,
)
from llmc.runtimes.pytorch.parallel.mesh import Axis

CUTS: dict[str, tuple[Cut, tuple[int, ...], tuple[int, ...]]] = {
    # cut, shape of the whole tensor, shape of a rank's part (tp 4)
    "rows": (Rows(10), (10, 3), (3, 3)),  # the last rank has one row and two of padding
    "a vector of rows": (Rows(8), (8,), (2,)),
    "columns": (Columns(), (3, 8), (3, 2)),
    "sections": (Sections((8, 4, 4), copies=(1, 1, 1)), (16, 3), (4, 3)),
    "sections with copies": (Sections((8, 4, 4), copies=(1, 2, 2)), (16, 3), (6, 3)),
    "one head for all": (Sections((8, 2, 2), copies=(1, 4, 4)), (12,), (6,)),
    "whole": (Whole(), (5,), (5,)),
    "experts in two groups": (EachExpert(Sections((6, 6), copies=(1, 1)), groups=2), (4, 12, 3), (2, 6, 3)),
    "columns of experts in two groups": (EachExpert(Columns(), groups=2), (4, 3, 6), (2, 3, 3)),
    "an expert a rank": (EachExpert(Whole(), groups=4), (4, 5, 3), (1, 5, 3)),
}


def ranks(cut: Cut, *, tp: int) -> list[Cuts]:
    return [Cuts({"w": cut}, rest=Whole(), tp=Axis(group=None, rank=rank, size=tp)) for rank in range(tp)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CUTS)
def test_pieces_cover_the_whole_tensor(name: str) -> None:
    cut, whole, local = CUTS[name]
    held, shares = torch.zeros(whole), torch.zeros(whole)
    for cuts in ranks(cut, tp=4):
        for piece in cuts.pieces("layers.0.w", torch.zeros(local)):
            assert piece.part.whole == whole
            box(held, piece).add_(1.0)
            box(shares, piece).add_(1.0 / piece.copies)
    assert held.min() >= 1.0
    torch.testing.assert_close(shares, torch.ones(whole))


@given(heads=st.integers(1, 4), kv_heads=st.sampled_from([1, 2, 4]), tp=st.sampled_from([1, 2, 4]))
def test_every_rank_has_the_keys_of_its_queries(heads: int, kv_heads: int, tp: int) -> None:
    """Query head h attends to key head h // group: the rank that has the one has the other."""
    num_heads = 4 * heads
    copies, group = max(1, tp // kv_heads), num_heads // kv_heads
    cut = Sections((num_heads, kv_heads, kv_heads), copies=(1, copies, copies))
    local = num_heads // tp + 2 * max(1, kv_heads // tp)
    for cuts in ranks(cut, tp=tp):
        q, k, v = cuts.pieces("w", torch.zeros(local, 2))
        queries = range(q.offset[0], q.offset[0] + len(q.tensor))
        keys = {head + num_heads for head in (query // group for query in queries)}
        assert keys == set(range(k.offset[0], k.offset[0] + len(k.tensor)))
        assert v.offset[0] == k.offset[0] + kv_heads


def test_padding_is_cleared_and_nothing_else() -> None:
    *_, last = ranks(Rows(10), tp=4)
    model = torch.nn.ParameterDict({"w": torch.full((3, 2), torch.nan)})
    clear_padding(model, last)
    assert model["w"][0].isnan().all()
    assert torch.equal(model["w"][1:], torch.zeros(2, 2))
    load_whole(model, last, {"w": torch.arange(20.0).view(10, 2)})
    assert torch.equal(model["w"], torch.tensor([[18.0, 19.0], [0.0, 0.0], [0.0, 0.0]]))


def test_a_name_is_matched_by_its_end() -> None:
    cuts = Cuts({"out.weight": Columns()}, rest=Whole(is_shared=True))
    assert cuts.of("layers.3.attn.out.weight") == Columns()
    assert cuts.of("layers.3.attn.layout.weight") == Whole(is_shared=True)
