"""Line breaks where the formatter would put them, for the few lines whose length depends on the spec."""

from __future__ import annotations

WIDTH = 120
_OPENING, _CLOSING = "([{", ")]}"


def fit(line: str) -> str:
    """Break a call or a definition that is too wide at its outer brackets: `{% filter fit %} … {% endfilter %}`.

    First all arguments go on a line of their own, then, if that is too wide as well, one on each, broken in the same way.
    """
    line = line.rstrip("\n")
    if len(line) <= WIDTH:
        return line + "\n"
    indent = " " * (len(line) - len(line.lstrip()))
    start, end = _outer(line)
    head, body, tail = line[: start + 1], line[start + 1 : end], line[end:]
    together = f"{indent}    {body}"
    if len(together) <= WIDTH:
        return f"{head}\n{together}\n{indent}{tail}\n"
    apart = "".join(fit(f"{indent}    {argument},") for argument in _arguments(body))
    return f"{head}\n{apart}{indent}{tail}\n"


def _outer(line: str) -> tuple[int, int]:
    """Where the first bracket opens, and where it closes; those in strings do not count."""
    start, depth, quote = -1, 0, ""
    for index, character in enumerate(line):
        if quote or character in "\"'":
            quote = "" if character == quote else quote or character
        elif character in _OPENING:
            start, depth = (index, 1) if start < 0 else (start, depth + 1)
        elif character in _CLOSING:
            depth -= 1
            if depth == 0:
                return start, index
    raise ValueError(f"no bracket to break at: {line}")


def nested(text: str, width: int) -> str:
    """A block of lines below a key: `  {{ block | nested(2) }}` stands where its first line goes."""
    return text.rstrip("\n").replace("\n", "\n" + " " * width)


def _arguments(body: str) -> list[str]:
    """`a, f(b, c)` -> ["a", "f(b, c)"]. Strings with brackets or commas do not occur in what is fitted."""
    parts, depth = [""], 0
    for character in body:
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
