"""What is kept and what is not."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtimes.data import Clean, DataError
from llmc.runtimes.data.clean import MAX_EXAMPLES, Cleaner, language_sample, normalise, word_runs

ENGLISH = "The cat sat on the mat and looked out of the window, where it had begun to rain in the old town. "
GERMAN = "Die Katze saß auf der Matte und schaute aus dem Fenster, wo es in der alten Stadt zu regnen begann. "
CHINESE = "猫坐在垫子上，望着窗外，老城里开始下雨了。街上的人们都撑起了雨伞，匆匆忙忙地往家里赶去。"


def reasons(clean: Clean, texts: list[str]) -> list[str | None]:
    cleaner = Cleaner(clean)
    return [cleaner.reason_to_remove(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("\ufeffx", "x"),
        ("e\u0301", "é"),
        ("x² ﬁ Ａ", "x² ﬁ Ａ"),  # NFKC would change all three
        ("  indented\t\n", "  indented\t\n"),
        ("binary\0", None),
        ("half \ud800 a pair", None),
    ],
)
def test_normalisation_changes_line_ends_and_composition_only(text: str, wanted: str | None) -> None:
    assert normalise(text, unicode="nfc") == wanted


def test_normalisation_can_leave_unicode_alone() -> None:
    assert normalise("e\u0301", unicode=None) == "e\u0301"


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text, unicode="nfc")
    if once is not None and not once.startswith("\ufeff"):
        assert normalise(once, unicode="nfc") == once


def test_short_documents_go_and_white_space_does_not_count() -> None:
    clean = Clean(min_chars=5, dedup=None)
    assert reasons(clean, ["12345", "  1234  ", "", " \n"]) == [None, "too-short", "too-short", "too-short"]
    assert reasons(Clean(min_chars=0, dedup=None), [" \n", "x"]) == ["too-short", None]


def test_the_first_of_equal_documents_stays() -> None:
    texts = [ENGLISH, GERMAN, ENGLISH]
    assert reasons(Clean(min_chars=1, dedup="exact"), texts) == [None, None, "exact-duplicate"]
    assert reasons(Clean(min_chars=1, dedup="minhash"), texts) == [None, None, "exact-duplicate"]
    assert reasons(Clean(min_chars=1, dedup=None), texts) == [None, None, None]


def numbered(count: int, *, step: int = 1) -> str:
    return " ".join(f"word{number * step}" for number in range(count))


def test_near_duplicates_go_and_merely_similar_documents_stay() -> None:
    original = numbered(400)
    one_word_changed = original.replace("word200 ", "changed ")  # 391 of 401 runs in common: similarity 0.975
    half = numbered(200) + " " + numbered(200, step=1000)  # about a third in common
    wanted = [None, "near-duplicate", None]
    assert reasons(Clean(min_chars=1, dedup="minhash"), [original, one_word_changed, half]) == wanted
    assert reasons(Clean(min_chars=1, dedup="exact"), [original, one_word_changed, half]) == [None, None, None]


def test_near_duplicates_are_found_in_scripts_without_spaces() -> None:
    changed = CHINESE.replace("老城", "古城")
    assert reasons(
        Clean(min_chars=1, dedup="minhash"), [CHINESE * 3, CHINESE * 2 + changed, "".join(sorted(CHINESE * 3))]
    ) == [
        None,
        "near-duplicate",
        None,
    ]


def test_long_documents_are_sketched_in_pieces() -> None:
    long = numbered(200_000)  # above a million characters
    assert reasons(Clean(min_chars=1, dedup="minhash"), [long, long + " more", numbered(200_000, step=7)]) == [
        None,
        "near-duplicate",
        None,
    ]


def test_runs_are_of_five_words() -> None:
    assert list(word_runs("a b, c d e")) == ["a b , c d", "b , c d e"]
    assert list(word_runs("a b")) == ["a b"]
    assert list(word_runs("ab 漢字")) == ["ab 漢 字"]


def test_other_languages_go_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the language filter opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    texts = [ENGLISH * 3, GERMAN * 3, CHINESE * 3]
    clean = Clean(min_chars=1, dedup=None, languages=["en"])
    assert reasons(clean, texts) == [None, "other-language", "other-language"]
    clean = Clean(min_chars=1, dedup=None, languages=["zh", "de"])
    assert reasons(clean, texts) == ["other-language", None, None]


def test_an_unknown_language_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(DataError, match="`english` is not a language") as caught:
        Cleaner(Clean(languages=["english"]))
    assert {"en", "zh", "de"} <= set(caught.value.help.split())


def test_a_header_in_another_language_does_not_decide() -> None:
    text = ENGLISH * 4 + GERMAN * 40
    assert GERMAN.strip()[:40] in language_sample(text)
    assert reasons(Clean(min_chars=1, languages=["de"]), [text]) == [None]


def test_what_was_removed_is_counted_with_examples() -> None:
    cleaner = Cleaner(Clean())
    for number in range(MAX_EXAMPLES + 3):
        cleaner.skip("too-short", f"doc {number}", characters=10)
    assert cleaner.removed["too-short"].documents == MAX_EXAMPLES + 3
    assert cleaner.removed["too-short"].characters == 10 * (MAX_EXAMPLES + 3)
    assert cleaner.removed["too-short"].examples == [f"doc {number}" for number in range(MAX_EXAMPLES)]
