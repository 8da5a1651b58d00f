"""Row -> what its source says of the program that ran: the `assume` section it amounts to, and what its memory figure means."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rows import TrainRow


@dataclass(frozen=True)
class Program:
    """The program behind a row."""

    assume: dict[str, Any] = field(default_factory=dict)
    memory: str = "allocated"
    selects_unprinted: bool = False
    """A row without recompute computes selected modules again, and not nothing."""


@dataclass(frozen=True)
class _Rule:
    source: re.Pattern[str]
    notes: re.Pattern[str]
    model: re.Pattern[str]
    accelerator: re.Pattern[str]
    assume: dict[str, Any]
    memory: str | None
    selects: bool

    def fits(self, row: TrainRow) -> bool:
        pairs = (
            (self.source, row.source),
            (self.notes, row.notes),
            (self.model, row.model),
            (self.accelerator, row.accelerator),
        )
        return all(pattern.search(text) for pattern, text in pairs)


def program_of(row: TrainRow) -> Program:
    """Every rule that fits, one over the other."""
    assume: dict[str, Any] = {}
    memory, selects = "allocated", False
    for rule in _rules():
        if rule.fits(row):
            assume |= rule.assume
            memory = rule.memory or memory
            selects = selects or rule.selects
    return Program(assume=assume, memory=memory, selects_unprinted=selects)


@cache
def _rules() -> tuple[_Rule, ...]:
    text = files("llmc.compiler.backtest").joinpath("programs.toml").read_text(encoding="utf-8")
    return tuple(
        _Rule(
            source=re.compile(rule.get("source", "")),
            notes=re.compile(rule.get("notes", "")),
            model=re.compile(rule.get("model", "")),
            accelerator=re.compile(rule.get("accelerator", "")),
            assume=rule.get("assume", {}),
            memory=rule.get("memory"),
            selects=rule.get("selects", False),
        )
        for rule in tomllib.loads(text)["program"]
    )
