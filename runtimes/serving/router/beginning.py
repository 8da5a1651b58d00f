"""The beginning of a prompt as digests: equal ones stand for equal beginnings of one caller."""

from __future__ import annotations

import hashlib
import json
from typing import Any

PIECE_BYTES = 256
"""About four blocks of a cache of 16 tokens each."""
MOST_PIECES = 256
"""The rest of a longer prompt does not decide."""


def beginning(body: bytes, caller: str) -> list[bytes]:
    """Digests of a request's prompt or conversation, each of everything up to the end of its piece.

    A conversation that goes on begins with what it was: messages are written one after the other. What cannot be read has no
    beginning: the replica will say what is wrong with it.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return []
    text = _text(request) if isinstance(request, dict) else b""
    chain, found = hashlib.sha256(caller.encode()).digest(), []
    for start in range(0, min(len(text), MOST_PIECES * PIECE_BYTES) - PIECE_BYTES + 1, PIECE_BYTES):
        chain = hashlib.sha256(chain + text[start : start + PIECE_BYTES]).digest()[:16]
        found.append(chain)
    return found


def _text(request: dict[str, Any]) -> bytes:
    if isinstance(messages := request.get("messages"), list):
        return b"".join(json.dumps(message).encode() for message in messages)
    prompt = request.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    return prompt.encode(errors="replace") if isinstance(prompt, str) else json.dumps(prompt).encode()
