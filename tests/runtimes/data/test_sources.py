"""What each kind of source yields, and the error for each way in which it can be wrong."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.runtimes.data import DataError, EntryPoint, PathSource, PythonStdlib
from llmc.runtimes.data.documents import SourceFile
from llmc.runtimes.data.recipe import Source
from llmc.runtimes.data.sources import open_source


def read(source: Source, root: Path, skipped: list | None = None) -> list[tuple[str, str]]:
    skipped = [] if skipped is None else skipped
    opened = open_source(source, root=root)
    return [
        (document.name, document.text)
        for document in opened.documents(lambda reason, name: skipped.append((reason, name)))
    ]


def digest(source: Source, root: Path) -> str:
    return open_source(source, root=root).digest(lambda num_bytes: None)


def test_text_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b.md", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    names = ["a/b.md", "a/z.txt", "b.txt"]
    assert read(PathSource("**/*"), tmp_path) == [(name, f"text of {name}") for name in names]


def test_json_lines_take_the_named_field(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    write_jsonl("a.jsonl", [{"text": "no", "content": "één"}, {"content": "two"}])
    assert read(PathSource("a.jsonl", text="content"), tmp_path) == [("a.jsonl:1", "één"), ("a.jsonl:2", "two")]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".ndjson.gz"])
def test_compressed_json_lines(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(b'{"text": "one"}\n\n{"text": "two"}'))
    assert read(PathSource(f"a{suffix}"), tmp_path) == [(f"a{suffix}:1", "one"), (f"a{suffix}:3", "two")]


def test_compressed_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo"))
    assert read(PathSource("*.gz"), tmp_path) == [("a.txt.gz", "one\ntwo")]


def test_bad_utf8_is_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbffine")
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "\xff"}\n{"text": "fine"}\n')
    skipped: list = []
    assert read(PathSource("*"), tmp_path, skipped) == [("bom.txt", "fine"), ("rows.jsonl:2", "fine")]
    assert skipped == [("bad-utf8", "bad.txt"), ("bad-utf8", "rows.jsonl:1")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"rows\.jsonl:2 is not JSON"),
        ("[" * 100_000, r"rows\.jsonl:2 is not JSON"),
        ('["text"]', r"rows\.jsonl:2 is a list, not an object"),
        ('{"body": "a", "id": 1}', r"rows\.jsonl:2 has no field `text`; it has `body`, `id`"),
        ('{"text": null}', r"the field `text` of rows\.jsonl:2 is null, not text"),
        ('{"text": 3}', r"the field `text` of rows\.jsonl:2 is a number, not text"),
    ],
)
def test_a_row_without_text_is_an_error_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(DataError, match=message):
        read(PathSource("rows.jsonl"), tmp_path)


def test_a_field_for_plain_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"`text: content` was given, but a\.txt is plain text"):
        read(PathSource("*.txt", text="content"), tmp_path)


def test_an_empty_glob_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches `\*\.txt`") as caught:
        open_source(PathSource("*.txt"), root=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(DataError, match="names a folder") as caught:
        open_source(PathSource("texts"), root=tmp_path)
    (tmp_path / "texts" / "a.txt").write_text("text")
    assert "`texts/**/*`" in caught.value.help
    assert read(PathSource("texts/**/*"), tmp_path) == [("texts/a.txt", "text")]


def test_a_broken_archive_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "one"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.jsonl.gz").write_bytes(b"not gzip at all")
    for name in ("cut", "other"):
        with pytest.raises(DataError, match="cannot read"):
            read(PathSource(f"{name}.jsonl.gz"), tmp_path)


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    opened = open_source(PathSource("a.txt"), root=tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match="cannot read"):
        list(opened.documents(lambda reason, name: None))
    with pytest.raises(DataError, match="cannot read"):
        opened.digest(lambda num_bytes: None)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pyarrow is not installed"):
        read(PathSource("a.parquet"), tmp_path)


def test_parquet_reads_a_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["one", "two"], "id": [1, 2]}), tmp_path / "a.parquet")
    assert read(PathSource("a.parquet", text="body"), tmp_path) == [("a.parquet:1", "one"), ("a.parquet:2", "two")]
    with pytest.raises(DataError, match="has no field `text`; it has `body`, `id`"):
        read(PathSource("a.parquet"), tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot read"):
        read(PathSource("bad.parquet"), tmp_path)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def write(name: str, code: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(code)

    return write


def test_an_entry_point_yields_texts_and_mappings(tmp_path: Path, write_module: Callable) -> None:
    write_module("my_docs", "def docs():\n    yield 'one'\n    yield {'text': 'two'}\n")
    path_before = list(sys.path)
    assert read(EntryPoint("my_docs:docs"), tmp_path) == [("my_docs:docs:1", "one"), ("my_docs:docs:2", "two")]
    assert sys.path == path_before


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def docs():\n    yield 3\n", "bad_docs:docs:1 is a number, not an object"),
        ("def docs():\n    raise KeyError('x')\n", "`bad_docs:docs` failed: KeyError"),
        ("def docs(path):\n    yield path\n", "`bad_docs:docs` failed: TypeError"),
        ("other = 1\n", "`bad_docs:docs` failed: AttributeError"),
        ("import no_such_module_here\n", "`bad_docs:docs` failed: ModuleNotFoundError"),
    ],
)
def test_a_faulty_entry_point_is_the_users_error(
    tmp_path: Path, write_module: Callable, code: str, message: str
) -> None:
    write_module("bad_docs", code)
    with pytest.raises(DataError, match=message):
        read(EntryPoint("bad_docs:docs"), tmp_path)


def test_a_missing_module_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no module `no_such_module_here`"):
        digest(EntryPoint("no_such_module_here:docs"), tmp_path)


def test_a_digest_changes_with_what_would_be_read(tmp_path: Path, write_module: Callable) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = digest(PathSource("*.txt"), tmp_path)
    assert digest(PathSource("*.txt"), tmp_path) == first
    (tmp_path / "a.txt").write_text("two")
    changed = digest(PathSource("*.txt"), tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    renamed = digest(PathSource("*.txt"), tmp_path)
    write_module("my_docs", "def docs(): yield 'one'")
    function = digest(EntryPoint("my_docs:docs"), tmp_path)
    write_module("my_docs", "def docs(): yield 'two'")
    assert len({first, changed, renamed, function, digest(EntryPoint("my_docs:docs"), tmp_path)}) == 5


def test_the_standard_library_is_its_modules_without_tests(tmp_path: Path) -> None:
    opened = open_source(PythonStdlib(), root=tmp_path)
    names = [file.name for file in opened.files]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert {"python-stdlib/json/decoder.py", "python-stdlib/ast.py"} <= set(names)
    assert not [name for name in names if "/test" in name and "/test" in name.rpartition("/")[0]]
    assert not [name for name in names if "site-packages" in name or "_sysconfigdata" in name]
    assert opened.num_bytes > 5_000_000


def test_a_python_without_its_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="0 source files"):
        open_source(PythonStdlib(), root=tmp_path)


@pytest.mark.parametrize(
    ("name", "wanted"), [("a.jsonl", ".jsonl"), ("a.jsonl.gz", ".jsonl"), ("a.json", "text"), ("README", "text")]
)
def test_formats_are_told_by_suffix(name: str, wanted: str) -> None:
    assert SourceFile(Path(name), name).format == wanted


def test_json_escapes_of_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "ü \ud83d\ude00"}))
    assert read(PathSource("a.jsonl"), tmp_path) == [("a.jsonl:1", "ü 😀")]
