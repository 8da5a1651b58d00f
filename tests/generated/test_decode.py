"""Decoding into a cache equals the forward pass, for every architecture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES
from programs import build, imported, tiny_spec

T = 40
"""Longer than the sliding window and the original context of the scaled positions."""


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_decoding_in_chunks_and_in_a_batch_equals_the_forward_pass(name: str, tmp_path: Path) -> None:
    folder = build(tiny_spec(without=("train", "data"), model=ARCHITECTURES[name]), tmp_path)
    with imported(folder, "model") as (module,):
        model = randomised(module.Model())
        tokens = torch.randint(0, 512, (3, T))
        expected = model.logits(model(tokens))
        cache = module.KVCache(num_blocks=32, block_tokens=4, dtype=torch.float64)
        for values in vars(cache).values():
            if isinstance(values, torch.Tensor):
                values[:, :-1] = math.nan  # what a block held before must not matter

        blocks, lengths = torch.randperm(32)[:30].view(3, 10), [17, 30, 9]  # in any order
        for row, length in enumerate(lengths):
            for start in range(0, length, 8):  # a prompt in chunks, each beginning where the last one ended
                positions = torch.arange(start, min(start + 8, length))[None]
                held = blocks[row : row + 1, : int(positions.max()) // 4 + 1]
                hidden = model.decode(tokens[row : row + 1, positions[0]], positions, held, cache)
                torch.testing.assert_close(model.logits(hidden)[0], expected[row, positions[0]], atol=1e-4, rtol=0.0)

        for step in range(10):  # one token of each sequence at a time, all at different positions
            at = torch.tensor(lengths)[:, None] + step
            hidden = model.decode(tokens.gather(1, at), at, blocks, cache)
            wanted = expected.gather(1, at[..., None].expand(-1, -1, expected.shape[-1]))
            torch.testing.assert_close(model.logits(hidden), wanted, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_no_position_sees_the_future(name: str, tmp_path: Path) -> None:
    folder = build(tiny_spec(without=("train", "data"), model=ARCHITECTURES[name]), tmp_path)
    with imported(folder, "model") as (module,):
        model = randomised(module.Model())
        tokens = torch.randint(0, 512, (1, T))
        changed = tokens.clone()
        changed[:, 25:] = (changed[:, 25:] + 1) % 512
        before, after = model(tokens), model(changed)
        assert (before[:, :25] - after[:, :25]).abs().max() < 1e-12  # not 0: experts multiply other rows together
        assert not torch.allclose(before[:, 25:], after[:, 25:])


@torch.no_grad()
def test_a_window_hides_what_is_further_back(tmp_path: Path) -> None:
    spec = tiny_spec(without=("train", "data"), model={"attention": {"kind": "gqa", "window": 4}, "num_layers": 1})
    with imported(build(spec, tmp_path), "model") as (module,):
        model = randomised(module.Model())
        tokens = torch.randint(0, 512, (1, 12))
        changed = tokens.clone()
        changed[:, 3] = (changed[:, 3] + 1) % 512
        same = (model(tokens) == model(changed)).all(-1)[0].tolist()
        assert same == [True] * 3 + [False] * 4 + [True] * 5  # token 3 is seen by itself and the three after it


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, so that none hides a mistake by being zero or one; in double precision."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    for buffer in model.buffers():  # the bias that balances experts
        buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model.double().eval()
