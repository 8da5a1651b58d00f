"""Tokens to text, as they come: no half characters, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """Spells one answer token by token.

    A token is a few bytes, and a character may span several tokens, so bytes go through an incremental UTF-8 decoder:
    what it holds back is never more than an unfinished character, and bytes that no continuation could complete become
    U+FFFD at once.

    A stop string ends the text in front of it. Text that could still become one is held back until the next token
    decides. Of several, the one completed first wins, so that the result does not depend on how text was cut into tokens.
    """

    def __init__(self, piece: Callable[[int], bytes], stops: Sequence[str] = ()) -> None:
        self._piece = piece
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._num_taken = 0
        self.is_stopped = False

    @property
    def length(self) -> int:
        """Characters spelled so far, taken or held; once finished, the length of the whole text."""
        return self._num_taken + len(self._held)

    @property
    def num_taken(self) -> int:
        return self._num_taken

    def push(self, token: int) -> bool:
        """Append a token; True when a stop string is now complete."""
        if not self.is_stopped:
            self._held += self._decoder.decode(self._piece(token))
            self._cut_at_stop()
        return self.is_stopped

    def take(self) -> str:
        """The text that is certain by now and was not taken before."""
        return self._release(len(self._held) - self._num_undecided())

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        if not self.is_stopped:
            self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        self._num_taken += size
        return text

    def _cut_at_stop(self) -> None:
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, start = min(found)
            self._held = self._held[:start]
            self.is_stopped = True

    def _num_undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        if self.is_stopped:
            return 0
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
