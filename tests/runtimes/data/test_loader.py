"""Every window once an epoch, in any world, across any restart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtimes.data import Corpus, DataError, TokenLoader


def counting_corpus(folder: Path, *, num_tokens: int, fingerprint: str = "f") -> Corpus:
    """A corpus whose token at position i is i, so that a window tells where it is from."""
    folder.mkdir(parents=True, exist_ok=True)
    np.arange(num_tokens, dtype="<u4").tofile(folder / "train.bin")
    index = {
        "fingerprint": fingerprint,
        "dtype": "uint32",
        "vocab_size": max(num_tokens, 1),
        "splits": {"train": {"tokens": num_tokens, "documents": 1}, "valid": {"tokens": 0, "documents": 0}},
    }
    return Corpus(folder, index)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counting")


def starts(batch: np.ndarray) -> list[int]:
    """Where each window of a batch begins, after a check that it is contiguous."""
    assert batch.dtype == np.int64
    assert (np.diff(batch, axis=1) == 1).all()
    return batch[:, 0].tolist()


def step(loaders: list[TokenLoader]) -> list[int]:
    """What all ranks get in one step."""
    return [start for loader in loaders for start in starts(next(loader))]


def world(corpus: Corpus, *, seq_len: int, batch: int, world_size: int, seed: int = 0) -> list[TokenLoader]:
    return [
        TokenLoader(corpus, "train", seq_len, batch, seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]


shapes = {
    "num_tokens": st.integers(2, 400),
    "seq_len": st.integers(1, 20),
    "batch": st.integers(1, 7),
    "world_size": st.integers(1, 5),
    "seed": st.integers(0, 2**32 - 1),
}


@given(**shapes)
def test_every_window_comes_exactly_once_an_epoch(
    folder: Path, num_tokens: int, seq_len: int, batch: int, world_size: int, seed: int
) -> None:
    if num_tokens <= seq_len:
        return
    corpus = counting_corpus(folder, num_tokens=num_tokens)
    loaders = world(corpus, seq_len=seq_len, batch=batch, world_size=world_size, seed=seed)
    num_windows = loaders[0].num_windows
    taken: list[int] = []
    while len(taken) < 3 * num_windows:
        taken += step(loaders)
    for epoch in range(3):
        of_epoch = taken[epoch * num_windows : (epoch + 1) * num_windows]
        assert sorted(of_epoch) == [window * seq_len for window in range(num_windows)]
    predicted = num_windows * seq_len
    assert num_tokens - 1 - seq_len < predicted <= num_tokens - 1  # every token but a short tail is a target


@given(**shapes, steps_before=st.integers(0, 30), world_after=st.integers(1, 5), batch_after=st.integers(1, 7))
def test_a_restart_in_another_world_continues_the_same_stream(
    folder: Path,
    num_tokens: int,
    seq_len: int,
    batch: int,
    world_size: int,
    seed: int,
    steps_before: int,
    world_after: int,
    batch_after: int,
) -> None:
    if num_tokens <= seq_len:
        return
    corpus = counting_corpus(folder, num_tokens=num_tokens)
    alone = TokenLoader(corpus, "train", seq_len, 1, seed)
    before = world(corpus, seq_len=seq_len, batch=batch, world_size=world_size, seed=seed)
    taken = [start for _ in range(steps_before) for start in step(before)]
    states = [json.loads(json.dumps(loader.state())) for loader in before]
    assert all(state == states[0] for state in states)
    after = world(corpus, seq_len=seq_len, batch=batch_after, world_size=world_after, seed=seed)
    for loader in after:
        loader.restore(states[0])
    taken += [start for _ in range(5) for start in step(after)]
    assert taken == [starts(next(alone))[0] for _ in taken]


def test_a_restored_loader_continues_as_if_nothing_had_happened(make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus()
    loader = TokenLoader(corpus, "train", 32, 4, seed=1)
    for _ in range(7):
        next(loader)
    restored = TokenLoader(corpus, "train", 32, 4, seed=1)
    restored.restore(json.loads(json.dumps(loader.state())))
    for _ in range(300):
        assert (next(restored) == next(loader)).all()
    assert loader.epoch > 0


def test_batches_are_the_stream_of_the_corpus(make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus()
    loader = TokenLoader(corpus, "train", 16, 8, shuffle=False)
    batch = next(loader)  # [8, 17]
    assert batch.shape == (8, 17)
    assert batch.dtype == np.int64
    stream = corpus.tokens("train")[: 8 * 16 + 1]
    assert (batch[:, :-1].ravel() == stream[:-1]).all()
    assert (batch[:, 1:].ravel() == stream[1:]).all()


def test_seeds_and_epochs_shuffle_differently(folder: Path) -> None:
    corpus = counting_corpus(folder, num_tokens=2001)
    loaders = [TokenLoader(corpus, "train", 2, 1000, seed) for seed in (0, 1)]
    orders = [starts(next(loader)) for loader in loaders] + [starts(next(loaders[0]))]
    assert len({tuple(order) for order in orders}) == 3


@given(num_windows=st.integers(1, 60), batch=st.integers(1, 9), world_size=st.integers(1, 4))
def test_a_sweep_sees_each_window_once_in_order_and_moves_nothing(
    folder: Path, num_windows: int, batch: int, world_size: int
) -> None:
    corpus = counting_corpus(folder, num_tokens=num_windows * 3 + 1)
    loaders = world(corpus, seq_len=3, batch=batch, world_size=world_size)
    swept = [[start for rows in loader.sweep() for start in starts(rows)] for loader in loaders]
    assert Counter(start for own in swept for start in own) == Counter(3 * window for window in range(num_windows))
    assert all(own == sorted(own) for own in swept)
    assert [starts(rows) for rows in loaders[0].sweep(2)] == [starts(rows) for rows in loaders[0].sweep()][:2]
    assert all(loader.samples == 0 for loader in loaders)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "has fingerprint 'other', this run has 'f'"),
        ({"seq_len": 8}, "has seq_len 8, this run has 4"),
        ({"seed": 5}, "has seed 5, this run has 0"),
        ({"split": "valid"}, "has split 'valid'"),
        ({"shuffle": False}, "has shuffle False"),
        ({"samples": -1}, "data position is -1"),
        ({"samples": "12"}, "data position is '12'"),
        ({"samples": True}, "data position is True"),
    ],
)
def test_a_cursor_of_another_run_is_refused(folder: Path, change: dict, message: str) -> None:
    loader = TokenLoader(counting_corpus(folder, num_tokens=100), "train", 4, 2)
    with pytest.raises(DataError, match=message):
        loader.restore({**loader.state(), **change})
    with pytest.raises(DataError, match="None"):
        loader.restore({})
    assert loader.samples == 0


def test_too_short_a_split_is_an_error(folder: Path) -> None:
    corpus = counting_corpus(folder, num_tokens=10)
    assert TokenLoader(corpus, "train", 9, 1).num_windows == 1
    with pytest.raises(DataError, match="the train split has 10 tokens, a window needs 11"):
        TokenLoader(corpus, "train", 10, 1)
    with pytest.raises(DataError, match="the valid split has 0 tokens"):
        TokenLoader(corpus, "valid", 10, 1)


@pytest.mark.parametrize("shape", [(0, 1, 0, 1), (4, 0, 0, 1), (4, 1, 2, 2), (4, 1, -1, 1)])
def test_an_impossible_shape_is_refused(folder: Path, shape: tuple[int, int, int, int]) -> None:
    seq_len, batch, rank, world_size = shape
    with pytest.raises(ValueError, match="seq_len"):
        TokenLoader(counting_corpus(folder, num_tokens=100), "train", seq_len, batch, rank=rank, world_size=world_size)


def test_a_token_beyond_the_vocabulary_never_reaches_a_kernel(folder: Path) -> None:
    corpus = counting_corpus(folder, num_tokens=100)
    corpus.index["vocab_size"] = 50
    with pytest.raises(DataError, match="is damaged: token"):
        list(TokenLoader(corpus, "train", 4, 2).sweep())
