"""Tokens spell exactly the text they came from, and a checkpoint's files say where text begins and ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmc.runtimes.serving.vocabulary import HubVocabulary, NumberVocabulary, TokenizerFiles, VocabularyError

CORPUS = ["def f(x):\n    return x + 1\n", "the cat sat on the mat, naïve café", "日本語のテキスト 😀😀 ok"] * 3


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<tool call>"])
    return tokenizer


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """As Llama 2 and Mistral have it: bytes for what the vocabulary lacks, ▁ for the space."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {name: at for at, name in enumerate(["<unk>", "<s>", "</s>", *bytes_, "▁", "▁a", "a", "b", "▁ab", "ab"])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[("▁", "a"), ("a", "b"), ("▁", "ab")], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def folder(path: Path, tokenizer: Tokenizer, **files: object) -> TokenizerFiles:
    tokenizer.save(str(path / "tokenizer.json"))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return TokenizerFiles(path)


@given(st.text(max_size=60))
def test_byte_level_pieces_are_the_bytes_of_the_text(byte_level: Tokenizer, text: str):
    vocabulary = HubVocabulary(byte_level, eos=frozenset())
    if "<|" in text or "<tool" in text:
        return
    tokens = vocabulary.encode(text, add_special=True)
    assert b"".join(map(vocabulary.piece, tokens)) == text.encode()


@given(st.text("ab é日", max_size=30))
def test_sentencepiece_pieces_are_the_bytes_of_the_text(sentencepiece: Tokenizer, text: str):
    vocabulary = HubVocabulary(sentencepiece, eos=frozenset())
    tokens = vocabulary.encode(text, add_special=False)
    assert b"".join(map(vocabulary.piece, tokens)) == text.encode()


@given(st.lists(st.integers(3, 400), max_size=20))
def test_pieces_spell_what_the_library_decodes(byte_level: Tokenizer, tokens: list[int]):
    vocabulary = HubVocabulary(byte_level, eos=frozenset())
    tokens = [token % vocabulary.num_tokens for token in tokens]
    spelled = b"".join(map(vocabulary.piece, tokens)).decode("utf-8", "replace")
    assert spelled == byte_level.decode(tokens, skip_special_tokens=True)


def test_special_tokens_add_no_text_but_have_a_name(byte_level: Tokenizer):
    vocabulary = HubVocabulary(byte_level, eos=frozenset())
    end, tool = byte_level.token_to_id("<|endoftext|>"), byte_level.token_to_id("<tool call>")
    assert (vocabulary.piece(end), vocabulary.spelling(end)) == (b"", b"<|endoftext|>")
    assert vocabulary.piece(tool) == b"<tool call>"


def test_an_id_without_a_token_adds_nothing(sentencepiece: Tokenizer):
    assert HubVocabulary(sentencepiece, eos=frozenset()).piece(5000) == b""


def test_settings_of_the_file_never_cut_a_prompt(tmp_path: Path, byte_level: Tokenizer):
    copy = Tokenizer.from_str(byte_level.to_str())
    copy.enable_truncation(4)
    copy.enable_padding(length=8)
    vocabulary = folder(tmp_path, copy).vocabulary(num_embeddings=1000)
    assert len(vocabulary.encode("xyzxyzxyz", add_special=False)) > 8


def test_the_first_token_comes_from_the_configuration(tmp_path: Path, sentencepiece: Tokenizer):
    copy = Tokenizer.from_str(sentencepiece.to_str())
    copy.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    vocabulary = folder(tmp_path, copy, tokenizer_config={"bos_token": {"content": "<s>"}}).vocabulary(
        num_embeddings=999
    )
    assert vocabulary.bos == 1
    assert vocabulary.encode("a", add_special=True)[0] == 1
    assert vocabulary.encode("a", add_special=False)[0] != 1


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({}, {"<|endoftext|>", "<|im_end|>"}),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, {"<|im_end|>"}),
        ({"tokenizer_config": {"eos_token": {"content": "<|im_end|>"}}}, {"<|im_end|>"}),
        ({"generation_config": {"eos_token_id": 0}}, {"<|endoftext|>"}),
        ({"generation_config": {"eos_token_id": [0, 1]}}, {"<|endoftext|>", "<|im_end|>"}),
    ],
)
def test_end_tokens_come_from_the_checkpoint(tmp_path: Path, byte_level: Tokenizer, files: dict, eos: set[str]):
    vocabulary = folder(tmp_path, byte_level, **files).vocabulary(num_embeddings=1000)
    assert vocabulary.eos == {byte_level.token_to_id(name) for name in eos}


def test_end_tokens_may_be_named(tmp_path: Path, byte_level: Tokenizer):
    files = folder(tmp_path, byte_level, generation_config={"eos_token_id": 0})
    assert files.vocabulary(num_embeddings=1000, eos_tokens=("<|im_end|>",)).eos == {1}
    with pytest.raises(VocabularyError, match="has no token '<nope>'"):
        files.vocabulary(num_embeddings=1000, eos_tokens=("<nope>",))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, byte_level: Tokenizer):
    with pytest.raises(VocabularyError, match=r"has 324 tokens, the model has 300 embeddings"):
        folder(tmp_path, byte_level).vocabulary(num_embeddings=300)


def test_a_missing_or_broken_tokenizer_is_a_clear_error(tmp_path: Path):
    with pytest.raises(VocabularyError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        TokenizerFiles(tmp_path).vocabulary(num_embeddings=10)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(VocabularyError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        TokenizerFiles(tmp_path).vocabulary(num_embeddings=10)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(VocabularyError, match=r"tokenizer_config\.json is not JSON"):
        _ = TokenizerFiles(tmp_path).chat_template


def test_a_decoder_that_cannot_stream_is_refused(byte_level: Tokenizer):
    copy = Tokenizer.from_str(byte_level.to_str())
    copy.decoder = decoders.WordPiece()
    with pytest.raises(VocabularyError, match="decoder is WordPiece"):
        HubVocabulary(copy, eos=frozenset())


def test_the_chat_template_is_a_file_or_in_the_configuration(tmp_path: Path, byte_level: Tokenizer):
    assert folder(tmp_path, byte_level).chat_template is None
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    assert folder(tmp_path, byte_level, tokenizer_config={"chat_template": named}).chat_template == "D"
    assert folder(tmp_path, byte_level, tokenizer_config={"chat_template": "C"}).chat_template == "C"
    (tmp_path / "chat_template.jinja").write_text("F")
    assert TokenizerFiles(tmp_path).chat_template == "F"


def test_random_weights_can_be_served_without_a_tokenizer():
    vocabulary = NumberVocabulary(1000)
    assert b"".join(map(vocabulary.piece, [*vocabulary.encode("né", add_special=True), 700])) == "né 700".encode()
