"""Did you mean: known names, closest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

MAX_LISTED = 8


def distance(a: str, b: str) -> int:
    """Edits between two words: insert, delete, replace, or swap two neighbours (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, previous, row = row, before, [i]
        for j, y in enumerate(b, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]


def by_closeness(name: str, known: Iterable[str]) -> list[str]:
    """Known names, the most similar first."""
    name = name[:80].lower()

    def unlikeness(other: str) -> tuple[float, str]:
        plain = other.lower()
        if name and (plain.startswith(name) or name in plain):
            return 0.2 + len(plain) / 1e4, other
        return distance(name, plain) / max(len(name), len(plain), 1), other

    return sorted(set(known), key=unlikeness)


def did_you_mean(name: str, known: Iterable[str], *, at_most: int = 2) -> list[str]:
    """The names that a typing error may have meant; none if nothing is near."""
    found = []
    for other in by_closeness(name, known)[:at_most]:
        near = distance(name[:80].lower(), other.lower()) <= max(1, round(max(len(name), len(other)) * 0.34))
        alike = SequenceMatcher(None, name[:80].lower(), other.lower()).ratio() >= 0.75
        contained = len(name) >= 3 and name.lower() in other.lower()
        if near or alike or contained:
            found.append(other)
    return found


def listing(names: Sequence[str], *, at_most: int = MAX_LISTED) -> str:
    """`a`, `b`, `c`, …"""
    shown = ", ".join(f"`{name}`" for name in names[:at_most])
    return f"{shown}, …" if len(names) > at_most else shown
