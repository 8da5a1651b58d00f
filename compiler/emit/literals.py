"""Values of a spec as Python source: quoted literals, and text that is safe inside a docstring or a comment.

A spec is untrusted text. A string of it reaches a program through `literal` (code) or `prose` (docstrings, comments,
Markdown) and in no other way.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

_PROSE = re.compile(r"[^A-Za-z0-9 .,:;+/=()_@%-]+")
_MAX_PROSE = 200
_LITERAL_TYPES = (bool, int, float, str, type(None))


def literal(value: Any) -> str:
    """A Python literal as the formatter would write it: `'a "b"'`, `1e-05`, `(1, 2)`."""
    if isinstance(value, tuple | list):
        items = ", ".join(literal(item) for item in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no literal")
    if not isinstance(value, _LITERAL_TYPES):
        raise TypeError(f"no literal for a {type(value).__name__}")
    return repr(value)


def _quoted(text: str) -> str:
    """Double quotes unless single ones need fewer escapes, which is the formatter's choice too."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    body = "".join(_escaped(character, quote=quote) for character in text)
    return f"{quote}{body}{quote}"


def _escaped(character: str, *, quote: str) -> str:
    if character == quote or character == "\\":
        return "\\" + character
    if character.isprintable():  # line breaks, control characters and direction marks are not
        return character
    return ascii(character)[1:-1]


def prose(text: str) -> str:
    """Text for a docstring, a comment or Markdown: one line, no quote that ends one, no backslash, no markup."""
    cleaned = _PROSE.sub("?", text)
    return cleaned if len(cleaned) <= _MAX_PROSE else cleaned[: _MAX_PROSE - 1] + "?"


def json_text(value: Any) -> str:
    """JSON with a stable form: indented, keys in the order given, ASCII."""
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
