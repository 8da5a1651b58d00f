"""Text comes out whole: no half characters, nothing of a stop string, whatever the tokens were."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmc.runtimes.serving.text import TextStream

ALPHABET = "aab€😀"  # few characters, so that stop strings begin often and overlap


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Bytes cut into tokens at these places."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def stream(pieces: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    """What each token lets out, then the rest; and whether a stop string ended it."""
    text = TextStream(lambda token: pieces[token], stops)
    out = []
    for token in range(len(pieces)):
        is_stopped = text.push(token)
        out.append(text.take())
        if is_stopped:
            break
    return [*out, text.finish()], text.is_stopped


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: the first stop string to be complete ends the text before it."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            return text[: end - max(map(len, matches))], True
    return text, False


texts = st.text(ALPHABET, max_size=40)
stop_lists = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4)


@given(texts, st.lists(st.integers(0, 200)), stop_lists)
def test_the_text_does_not_depend_on_how_it_is_cut_into_tokens(text, cuts, stops):
    out, is_stopped = stream(cut(text.encode(), cuts), stops)
    assert ("".join(out), is_stopped) == reference(text, stops)


@given(texts, st.lists(st.integers(0, 200)), stop_lists)
def test_nothing_is_let_out_that_must_be_taken_back(text, cuts, stops):
    whole, _ = reference(text, stops)
    out, _ = stream(cut(text.encode(), cuts), stops)
    assert "\ufffd" not in "".join(out)
    for end in range(len(out) + 1):
        assert whole.startswith("".join(out[:end]))


@given(texts, st.lists(st.integers(0, 200)))
def test_without_stop_strings_no_whole_character_is_held_back(text, cuts):
    pieces = cut(text.encode(), cuts)
    out, _ = stream(pieces, [])
    for end in range(len(pieces)):
        arrived = b"".join(pieces[: end + 1]).decode(errors="ignore")
        assert "".join(out[: end + 1]) == arrived


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=20))
def test_bytes_that_are_no_text_become_replacement_characters(pieces):
    out, _ = stream(pieces, [])
    assert "".join(out) == b"".join(pieces).decode("utf-8", "replace")


def test_invalid_bytes_do_not_hold_the_stream_back():
    out, _ = stream([b"\x80"] * 100, [])
    assert out == ["\ufffd"] * 100 + [""]


def test_an_unfinished_character_at_the_end_is_replaced():
    assert stream(["€".encode()[:2]], [])[0] == ["", "\ufffd"]


def test_a_possible_stop_is_held_until_it_is_decided():
    assert stream([b"x<", b"en", b"d", b"!"], ["<end>"])[0] == ["x", "", "", "<end!", ""]
    assert stream([b"x<", b"en", b"d", b">", b"y"], ["<end>"]) == (["x", "", "", "", ""], True)


def test_characters_are_counted_where_tokens_begin():
    text = TextStream(lambda token: [b"a\xe2", b"\x82\xac", b"b"][token])
    lengths = []
    for token in range(3):
        text.push(token)
        lengths.append(text.length)
    assert lengths == [1, 2, 3]
