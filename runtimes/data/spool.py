"""Kept documents on disk between cleaning and tokenising: a pass over them needs memory for one at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kept:
    """A document that stays, without its text."""

    number: int
    source: int  # index into the recipe's sources
    copies: int  # in the training stream
    is_valid: bool
    num_chars: int


class Spool:
    """Append all documents, then read any of them, as often as needed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._texts = (folder / "texts").open("w+b")
        self._names = (folder / "names").open("w+b")
        self._text_starts, self._name_starts = array("q", [0]), array("q", [0])
        self._chars, self._source, self._copies, self._is_valid = array("q"), array("q"), array("q"), array("b")

    def append(self, name: str, text: str, *, source: int, copies: int, is_valid: bool) -> None:
        for stream, starts, value in (
            (self._texts, self._text_starts, text.encode()),
            (self._names, self._name_starts, name.encode(errors="backslashreplace")),
        ):
            stream.write(value)
            starts.append(starts[-1] + len(value))
        self._chars.append(len(text))
        self._source.append(source)
        self._copies.append(copies)
        self._is_valid.append(is_valid)

    def __len__(self) -> int:
        return len(self._chars)

    def __iter__(self) -> Iterator[Kept]:
        for number in range(len(self)):
            yield Kept(
                number, self._source[number], self._copies[number], bool(self._is_valid[number]), self._chars[number]
            )

    def text(self, number: int) -> str:
        return self._read(self._texts, self._text_starts, number)

    def name(self, number: int) -> str:
        return self._read(self._names, self._name_starts, number)

    @staticmethod
    def _read(stream, starts: array, number: int) -> str:
        stream.seek(starts[number])
        return stream.read(starts[number + 1] - starts[number]).decode()

    def close(self) -> None:
        self._texts.close()
        self._names.close()
