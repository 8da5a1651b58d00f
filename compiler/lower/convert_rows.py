"""Rows of the table in convert.py: one of our parameters, and the expression that says how it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from ..emit.literals import literal


@dataclass(frozen=True)
class TensorRow:
    """One parameter (`{i}` stands for a layer) and the expression that says how Hugging Face stores it."""

    name: str
    source: str


def same(name: str) -> str:
    return f"Same({literal(name)})"


def joined(stem: str, rows: dict[str, int], *, kind: str) -> str:
    parts = ", ".join(f"{literal(part)}: {count}" for part, count in rows.items())
    return f"Joined({literal(f'{stem}.{kind}')}, {{{parts}}})"
