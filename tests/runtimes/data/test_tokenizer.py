"""Training is exact and repeatable, an existing tokenizer is checked, and text cannot forge special tokens."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from llmc.runtimes.data import DataError, TokenizerFile, TrainBPE
from llmc.runtimes.data.tokenizer import SMALLEST_VOCAB, SPECIAL_TOKENS, check_tokenizer, pieces, train_bpe

from .conftest import made_up_text

TEXTS = [made_up_text(number) for number in range(30)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_bpe(TrainBPE(320), iter(TEXTS), out=tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_training_gives_exactly_the_size_asked_for(trained: Tokenizer) -> None:
    assert sorted(trained.get_vocab().values()) == list(range(320))
    assert [trained.id_to_token(number) for number in range(4)] == list(SPECIAL_TOKENS)
    assert SMALLEST_VOCAB == 260


def test_too_little_text_is_an_error_with_the_size_that_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model's vocab_size is 5000") as caught:
        train_bpe(TrainBPE(5000), iter(["a few words", "and more words"]), out=tmp_path / "t.json")
    possible = int(caught.value.help.split()[-3])
    tokenizer = train_bpe(TrainBPE(possible), iter(["a few words", "and more words"]), out=tmp_path / "t.json")
    assert tokenizer.get_vocab_size() == possible


def test_a_vocabulary_holds_at_least_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bytes and special tokens alone are 260"):
        train_bpe(TrainBPE(259), iter(TEXTS), out=tmp_path / "t.json")
    assert train_bpe(TrainBPE(260), iter(TEXTS), out=tmp_path / "t.json").get_vocab_size() == 260


TRAIN = """
import sys, random
from pathlib import Path
from llmc.runtimes.data.tokenizer import train_bpe
from llmc.runtimes.data import TrainBPE
texts = Path(sys.argv[1]).read_text().split("\\x1e")
random.Random(sys.argv[3]).shuffle(texts)
train_bpe(TrainBPE(1500), iter(texts), out=Path(sys.argv[2]))
"""


def test_the_same_texts_give_the_same_bytes_in_any_order_on_any_number_of_threads(tmp_path: Path) -> None:
    """Many pairs are equally frequent here, so that a tie broken by chance would show."""
    choose = random.Random(1)
    texts = ["".join(choose.choices(string.ascii_letters + " ", k=300)) for _ in range(300)]
    (tmp_path / "texts").write_text("\x1e".join(texts))
    files = []
    for number, environment in enumerate(
        [
            {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"},
            {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "2", "PYTHONHASHSEED": "2"},
            {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "5", "PYTHONHASHSEED": "3"},
        ]
    ):
        out = tmp_path / f"{number}.json"
        arguments = [sys.executable, "-c", TRAIN, str(tmp_path / "texts"), str(out), str(number)]
        subprocess.run(arguments, check=True, env=environment)
        files.append(out.read_bytes())
    assert files[0] == files[1] == files[2]


@given(st.text())
def test_every_text_is_read_back_as_it_was(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_special_tokens_in_a_text_are_characters(trained: Tokenizer) -> None:
    ids = trained.encode("a <|endoftext|> b <|im_start|>", add_special_tokens=False).ids
    assert min(ids) >= len(SPECIAL_TOKENS)
    assert trained.decode(ids) == "a <|endoftext|> b <|im_start|>"


@given(
    st.lists(st.sampled_from(["\n", "\n\n", " ", "   ", "\t", "\r", "\x1c", "\u2003", "ab", "a's", "12", "!?", "é漢"]))
)
def test_pieces_have_the_tokens_of_the_whole(trained: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    cut = list(pieces(text, max_chars=3))
    assert "".join(cut) == text
    ids = [number for piece in cut for number in trained.encode(piece, add_special_tokens=False).ids]
    assert ids == trained.encode(text, add_special_tokens=False).ids


def test_a_long_text_comes_in_several_pieces() -> None:
    text = "a line\n" * 1000
    assert len(list(pieces(text, max_chars=100))) > 50
    assert list(pieces("no break at all " * 100, max_chars=100)) == ["no break at all " * 100]


def word_level(path: Path, vocab: dict[str, int], **settings: object) -> Path:
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return path


def test_an_existing_tokenizer_may_be_smaller_than_the_model_and_not_larger(tmp_path: Path) -> None:
    path = word_level(tmp_path / "t.json", {"<unk>": 0, "</s>": 9, "a": 2})
    assert check_tokenizer(TokenizerFile("t.json", 10), path=path)[1] == "</s>"
    assert check_tokenizer(TokenizerFile("t.json", 16), path=path)[1] == "</s>"
    with pytest.raises(DataError, match="ids up to 9, the model's vocab_size is 9") as caught:
        check_tokenizer(TokenizerFile("t.json", 9), path=path)
    assert caught.value.help == "set the vocab_size to 10 or more"


def test_an_existing_tokenizer_needs_an_end_of_text(tmp_path: Path) -> None:
    path = word_level(tmp_path / "t.json", {"<unk>": 0, "stop": 1})
    with pytest.raises(DataError, match="no end-of-text token"):
        check_tokenizer(TokenizerFile("t.json", 10), path=path)
    with pytest.raises(DataError, match="no token `halt`"):
        check_tokenizer(TokenizerFile("t.json", 10, end_of_text="halt"), path=path)
    assert check_tokenizer(TokenizerFile("t.json", 10, end_of_text="stop"), path=path)[1] == "stop"


def test_truncation_and_padding_of_an_existing_tokenizer_do_not_apply(tmp_path: Path) -> None:
    settings = {
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "</s>",
        },
    }
    path = word_level(tmp_path / "t.json", {"<unk>": 0, "</s>": 1, "a": 2}, **settings)
    assert len(Tokenizer.from_file(str(path)).encode("a a a a").ids) == 9
    tokenizer, _ = check_tokenizer(TokenizerFile("t.json", 10), path=path)
    assert tokenizer.encode("a a a a").ids == [2, 2, 2, 2]


def test_a_missing_or_broken_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no tokenizer"):
        check_tokenizer(TokenizerFile("t.json", 10), path=tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"model": {"type": "Nonsense"}}')
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        check_tokenizer(TokenizerFile("t.json", 10), path=tmp_path / "t.json")
