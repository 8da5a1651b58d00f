"""Row -> the engine and the protocol behind it, as far as its source says it (serving_programs.toml)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .serve_rows import ServeRow

MATCHED = ("engine", "source", "model", "notes", "weights", "accelerator")


@dataclass(frozen=True)
class ServeProgram:
    """The program behind a row."""

    software: str = "llmc"
    static: bool = False
    kv: str = "bf16"
    weights_kept: str | None = None
    preset: str | None = None
    block_scales: bool = False
    kv_again: bool = False
    shared_prompts: bool = False
    slot_wait: bool = False


def serve_program_of(row: ServeRow) -> ServeProgram:
    """Every rule that fits, one over the other; what the row itself says of its cache stands above them."""
    program = ServeProgram()
    for patterns, facts in _rules():
        if all(pattern.search(getattr(row, name)) for name, pattern in patterns.items()):
            program = replace(program, **facts)
    return replace(program, kv=row.kv) if row.kv else program


@cache
def _rules() -> tuple[tuple[dict[str, re.Pattern[str]], dict[str, Any]], ...]:
    text = files("llmc.compiler.backtest").joinpath("serving_programs.toml").read_text(encoding="utf-8")
    return tuple(
        (
            {name: re.compile(rule[name]) for name in MATCHED if name in rule},
            {name: value for name, value in rule.items() if name not in MATCHED},
        )
        for rule in tomllib.loads(text)["program"]
    )
