"""A corpus is the same bytes for the same recipe, reused without work, and never half there."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from llmc.runtimes.data import (
    Clean,
    Corpus,
    DataError,
    DataRecipe,
    PathSource,
    TokenizerFile,
    TrainBPE,
    prepare,
)

from .conftest import made_up_text

RECIPE = DataRecipe(
    sources=[PathSource("texts/*.txt")],
    clean=Clean(min_chars=1, dedup="minhash"),
    tokenizer=TrainBPE(300),
    valid_fraction=0.2,
)


@pytest.fixture
def texts(write_texts: Callable[..., Path]) -> list[str]:
    """Forty documents in tmp_path/texts."""
    made = [made_up_text(number) for number in range(40)]
    write_texts("texts", made)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def decoded(corpus: Corpus, split: str) -> dict[str, str]:
    """Name -> text of each document, read back from the token stream."""
    tokens, starts = corpus.tokens(split), corpus.document_starts(split)
    found = {}
    for number in range(corpus.num_documents(split)):
        ids = tokens[starts[number] : starts[number + 1]]
        assert ids[-1] == corpus.end_of_text_id
        assert corpus.end_of_text_id not in ids[:-1]
        found[corpus.document_name(split, number)] = corpus.tokenizer.decode(ids[:-1].tolist())
    return found


def test_the_stream_is_the_documents_with_their_ends(tmp_path: Path, texts: list[str]) -> None:
    corpus = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    train, valid = decoded(corpus, "train"), decoded(corpus, "valid")
    assert {**train, **valid} == {f"texts/{number:04}.txt": text for number, text in enumerate(texts)}
    assert len(train) + len(valid) == len(texts)
    assert list(train) == sorted(train)
    assert 2 <= len(valid) <= 16  # 20 % of 40 by hash
    assert corpus.index["sources"] == [
        {
            "source": "texts/*.txt",
            "read": 40,
            "not_selected": 0,
            "kept": 40,
            "tokens": {"train": corpus.num_tokens("train"), "valid": corpus.num_tokens("valid")},
        }
    ]
    assert sorted(contents(corpus.folder)) == [
        "index.json",
        "tokenizer.json",
        "train.bin",
        "train.documents.npy",
        "train.names.jsonl",
        "valid.bin",
        "valid.documents.npy",
        "valid.names.jsonl",
    ]


def test_the_tokenizer_has_not_seen_the_validation_text(tmp_path: Path, texts: list[str]) -> None:
    corpus = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    for name in decoded(corpus, "valid"):
        (tmp_path / name).unlink()
    recipe = dataclasses.replace(RECIPE, valid_fraction=0.0)
    alone = prepare(recipe, tmp_path / "alone", root=tmp_path)
    for name in ("tokenizer.json", "train.bin"):
        assert (alone.folder / name).read_bytes() == (corpus.folder / name).read_bytes()


def test_a_prepared_corpus_is_reused_without_work(tmp_path: Path, texts: list[str]) -> None:
    stages: list[str] = []

    def progress(stage: str, done: int, total: int | None) -> None:
        stages.append(stage)

    first = prepare(RECIPE, tmp_path / "corpus", progress, root=tmp_path)
    assert list(dict.fromkeys(stages)) == [
        "hash the sources",
        "read and clean texts/*.txt",
        "train the tokenizer",
        "tokenise",
    ]
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    stages.clear()
    again = prepare(RECIPE, tmp_path / "corpus", progress, root=tmp_path)
    assert set(stages) == {"hash the sources"}
    assert again.index == first.index
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == times


def test_progress_ends_at_its_total(tmp_path: Path, texts: list[str]) -> None:
    last: dict[str, tuple[int, int | None]] = {}
    prepare(RECIPE, tmp_path / "corpus", lambda stage, done, total: last.update({stage: (done, total)}), root=tmp_path)
    num_chars = sum(map(len, texts))
    assert set(last.values()) == {(num_chars, num_chars)}  # ASCII: bytes and characters agree


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"valid_fraction": 0.3},
        {"tokenizer": TrainBPE(301)},
        {"clean": Clean(min_chars=2, dedup="minhash")},
        {"sources": (PathSource("texts/*.txt", weight=2.0),)},
    ],
)
def test_each_part_of_the_recipe_is_in_the_fingerprint(tmp_path: Path, texts: list[str], change: dict) -> None:
    first = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    changed = prepare(dataclasses.replace(RECIPE, **change), tmp_path / "corpus", root=tmp_path)
    assert changed.fingerprint != first.fingerprint


def test_a_changed_file_is_noticed(tmp_path: Path, texts: list[str]) -> None:
    first = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    (tmp_path / "texts" / "0000.txt").write_text("something else")
    changed = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    assert changed.fingerprint != first.fingerprint
    assert "something else" in {**decoded(changed, "train"), **decoded(changed, "valid")}.values()


def test_a_library_that_matters_is_in_the_fingerprint(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    assert set(first.index["libraries"]) == {"tokenizers", "rensa", "unicode"}
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    assert prepare(RECIPE, tmp_path / "corpus", root=tmp_path).fingerprint != first.fingerprint


PREPARE_IN_A_PROCESS = """
import sys
from llmc.runtimes.data import *
recipe = DataRecipe(
    sources=[PathSource("texts/*.txt"), PathSource("more.jsonl", weight=1.5)],
    clean=Clean(min_chars=1, dedup="minhash", languages=["en", "de"]),
    tokenizer=TrainBPE(vocab_size=300), valid_fraction=0.2,
)
prepare(recipe, sys.argv[1])
"""


def test_the_same_recipe_gives_the_same_bytes_in_every_process(
    tmp_path: Path, texts: list[str], write_jsonl: Callable[..., Path]
) -> None:
    write_jsonl("more.jsonl", [{"text": made_up_text(100 + number)} for number in range(20)])
    for number, threads in enumerate(("1", "4")):
        subprocess.run(
            [sys.executable, "-c", PREPARE_IN_A_PROCESS, f"out{number}/corpus"],
            check=True,
            cwd=tmp_path,
            env={"PYTHONHASHSEED": str(number), "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"},
        )
    assert contents(tmp_path / "out0" / "corpus") == contents(tmp_path / "out1" / "corpus")
    for name, content in contents(tmp_path / "out0" / "corpus").items():
        assert str(tmp_path).encode() not in content, name


def test_what_cleaning_removed_is_in_the_index(tmp_path: Path, texts: list[str]) -> None:
    folder = tmp_path / "texts"
    (folder / "copy.txt").write_text(texts[0])
    (folder / "latin.txt").write_bytes(b"caf\xe9" * 100)
    (folder / "short.txt").write_text("short")
    (folder / "zero.txt").write_text("binary\0" * 100)
    recipe = dataclasses.replace(RECIPE, clean=Clean(min_chars=10, dedup="exact"))
    index = prepare(recipe, tmp_path / "corpus", root=tmp_path).index
    assert {reason: row["examples"] for reason, row in index["removed"].items()} == {
        "bad-utf8": ["texts/latin.txt"],
        "exact-duplicate": ["texts/copy.txt"],
        "not-text": ["texts/zero.txt"],
        "too-short": ["texts/short.txt"],
    }
    assert index["removed"]["exact-duplicate"] == {
        "documents": 1,
        "characters": len(texts[0]),
        "examples": ["texts/copy.txt"],
    }


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"no document is left of 40 read \(40 too-short\)"):
        prepare(dataclasses.replace(RECIPE, clean=Clean(min_chars=100_000)), tmp_path / "corpus", root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts"]


def test_a_failed_preparation_leaves_the_old_corpus(tmp_path: Path, texts: list[str]) -> None:
    before = contents(prepare(RECIPE, tmp_path / "corpus", root=tmp_path).folder)
    (tmp_path / "texts" / "0000.txt").write_text("changed")
    with pytest.raises(DataError, match="the text gives"):
        prepare(dataclasses.replace(RECIPE, tokenizer=TrainBPE(100_000)), tmp_path / "corpus", root=tmp_path)
    assert contents(tmp_path / "corpus") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "texts"]


def test_an_interrupt_at_any_stage_leaves_nothing(tmp_path: Path, texts: list[str]) -> None:
    stages = ["hash the sources", "read and clean texts/*.txt", "train the tokenizer", "tokenise"]
    for stage_to_stop in stages:

        def stop(stage: str, done: int, total: int | None, stop_at: str = stage_to_stop) -> None:
            if stage == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare(RECIPE, tmp_path / "corpus", stop, root=tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["texts"]


PREPARE_AND_HANG = """
import sys, time
from llmc.runtimes.data import *
def hang(stage, done, total):
    if stage == "tokenise" and done == 0:
        print("ready", flush=True)
        time.sleep(600)
recipe = DataRecipe(sources=[PathSource("texts/*.txt")], clean=Clean(min_chars=1, dedup="minhash"), tokenizer=TrainBPE(300), valid_fraction=0.2)
prepare(recipe, "corpus", hang)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and folder locks are POSIX")
def test_a_killed_preparation_is_swept_up_by_the_next_one_which_waits_for_a_living_one(
    tmp_path: Path, texts: list[str]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", PREPARE_AND_HANG], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert (tmp_path / ".corpus.preparing").is_dir()
    assert not (tmp_path / "corpus").exists()

    def kill_when_waited_for(stage: str, done: int, total: int | None) -> None:
        if stage == "wait for another preparation":
            os.kill(process.pid, signal.SIGKILL)

    corpus = prepare(RECIPE, tmp_path / "corpus", kill_when_waited_for, root=tmp_path)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert len(decoded(corpus, "train")) + len(decoded(corpus, "valid")) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "texts"]


def test_two_preparations_at_once_do_the_work_once(tmp_path: Path, texts: list[str]) -> None:
    program = PREPARE_AND_HANG.replace("time.sleep(600)", "time.sleep(0.3)")
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum(b"ready" in output for output in outputs) == 1


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(DataError, match="is not a prepared corpus, so it is not replaced"):
        prepare(RECIPE, tmp_path / "texts", root=tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is not a prepared corpus"):
        prepare(RECIPE, tmp_path / "file", root=tmp_path)
    (tmp_path / "empty").mkdir()
    assert prepare(RECIPE, tmp_path / "empty", root=tmp_path).num_documents("train") > 0
    assert len(list((tmp_path / "texts").iterdir())) == 40


def test_a_corpus_inside_its_own_glob_does_not_feed_itself(tmp_path: Path, texts: list[str]) -> None:
    recipe = dataclasses.replace(RECIPE, sources=(PathSource("texts/**/*"),))
    first = prepare(recipe, tmp_path / "texts" / "corpus", root=tmp_path)
    assert prepare(recipe, tmp_path / "texts" / "corpus", root=tmp_path).fingerprint == first.fingerprint


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot prepare"):
        prepare(RECIPE, tmp_path / "file" / "corpus", root=tmp_path)


def test_an_existing_tokenizer_is_copied_and_wide_ids_are_kept(tmp_path: Path, texts: list[str]) -> None:
    vocab = {"<unk>": 0, "<eos>": 1} | {
        word: 70_000 + number for number, word in enumerate(sorted(set(texts[0].split())))
    }
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "mine.json"))
    recipe = dataclasses.replace(RECIPE, tokenizer=TokenizerFile("mine.json", vocab_size=80_000))
    corpus = prepare(recipe, tmp_path / "corpus", root=tmp_path)
    assert (corpus.folder / "tokenizer.json").read_bytes() == (tmp_path / "mine.json").read_bytes()
    assert corpus.dtype == np.uint32
    assert corpus.end_of_text_id == 1
    assert corpus.tokens("train").max() >= 70_000
    (tmp_path / "mine.json").write_text((tmp_path / "mine.json").read_text() + "\n")
    assert prepare(recipe, tmp_path / "corpus", root=tmp_path).fingerprint != corpus.fingerprint


def test_small_ids_are_sixteen_bits(tmp_path: Path, texts: list[str]) -> None:
    corpus = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    assert corpus.dtype == np.uint16
    assert (corpus.folder / "train.bin").stat().st_size == 2 * corpus.num_tokens("train")


def damage_size(folder: Path) -> None:
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-2])


def damage_index(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    del index["splits"]
    (folder / "index.json").write_text(json.dumps(index))


def damage_offsets(folder: Path) -> None:
    np.save(folder / "train.documents.npy", np.array([object()]), allow_pickle=True)


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("damage", [damage_size, damage_index, damage_offsets, damage_tokenizer])
def test_a_damaged_corpus_is_not_opened_and_is_prepared_again(
    tmp_path: Path, texts: list[str], damage: Callable[[Path], None]
) -> None:
    corpus = prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    whole = contents(corpus.folder)
    damage(corpus.folder)
    with pytest.raises(DataError, match="is damaged"):
        Corpus.open(corpus.folder)
    prepare(RECIPE, tmp_path / "corpus", root=tmp_path)
    assert contents(corpus.folder) == whole


def test_other_folders_are_not_corpora(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared corpus"):
        Corpus.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "llmc-corpus", "version": 99}')
    with pytest.raises(DataError, match="format version 99, this llmc reads 1"):
        Corpus.open(tmp_path)


def test_real_source_code_survives_the_round_trip(tmp_path: Path) -> None:
    """A few modules of the standard library, as the demo has them."""
    library = Path(sysconfig.get_path("stdlib"))
    recipe = DataRecipe(
        sources=[PathSource("json/*.py"), PathSource("email/*.py")],
        tokenizer=TrainBPE(vocab_size=1000),
        valid_fraction=0.1,
    )
    corpus = prepare(recipe, tmp_path / "corpus", root=library)
    documents = {**decoded(corpus, "train"), **decoded(corpus, "valid")}
    assert documents["json/decoder.py"] == (library / "json" / "decoder.py").read_text(encoding="utf-8")
    assert len(documents) > 20
    num_chars = sum(map(len, documents.values()))
    num_tokens = corpus.num_tokens("train") + corpus.num_tokens("valid")
    assert 2.5 < num_chars / num_tokens < 6  # characters a token: merges have been learnt


def test_compressed_and_plain_rows_make_the_same_streams(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": made_up_text(number)}) + "\n" for number in range(30))
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    corpora = [
        prepare(dataclasses.replace(RECIPE, sources=(PathSource(name),)), tmp_path / f"out-{name}", root=tmp_path)
        for name in ("a.jsonl", "b.jsonl.gz")
    ]
    for split in ("train", "valid"):
        assert (corpora[0].tokens(split) == corpora[1].tokens(split)).all()
