"""Values of a spec as source: quoted literals, and text that is safe inside a docstring or a comment.

A spec is untrusted text. A string of it reaches a program through `literal` (Python), `shell`, `yaml`, `unit_value` (units
of systemd) or `prose` (docstrings, comments, Markdown) and in no other way.
"""

from __future__ import annotations

import json
import math
import re
import shlex
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


def shell(value: str | int) -> str:
    """A word of a shell command. A value with a control character has no place in a script."""
    text = str(value)
    if not all(character.isprintable() for character in text):
        raise ValueError(f"{text!r} cannot stand in a shell script")
    return shlex.quote(text)


def yaml(value: str | int | bool) -> str:
    """A scalar of YAML: text is always in quotes, so that it stays text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"  # nothing is escaped between these
    body = "".join(_yaml_escaped(character) for character in value)
    return f'"{body}"'


def _yaml_escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\U{ord(character):08x}"


def unit_value(value: str | int) -> str:
    """A word of a setting in a systemd unit: quoted, with its percent signs meant as such."""
    text = str(value)
    if not all(character.isprintable() for character in text):
        raise ValueError(f"{text!r} cannot stand in a unit")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def unit_argument(value: str | int) -> str:
    """A word of a command in a systemd unit, where variables would be filled in too."""
    return unit_value(value).replace("$", "$$")


def json_text(value: Any) -> str:
    """JSON with a stable form: indented, keys in the order given, ASCII."""
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
