"""Rules of training and its data."""

from __future__ import annotations

from collections.abc import Iterator

from ..attention import Learned
from ..base import Path
from ..batch import fixed_dp, solve_batch
from ..data import Data, TrainTokenizer
from ..diagnostics import Diagnostic, Edit, Fix, Label, SpecError, diagnose
from ..model import Model
from ..parallel import Parallel
from ..training import Train

MIN_BYTE_VOCABULARY = 257
"""256 bytes and an end of text."""


def objective_suits_the_model(model: Model, stage: Train) -> Iterator[Diagnostic]:
    """Decoders predict the next token, encoders masked ones."""
    objective = stage.objective.kind
    suits = {"masked_lm": ("encoder",)}.get(objective, ("decoder", "encoder_decoder"))
    if model.kind in suits:
        return
    path = (*stage._path, "objective")
    article = "an" if model.kind[0] == "e" else "a"
    fix = "causal_lm" if model.kind == "decoder" else "masked_lm"
    yield diagnose(
        "S307",
        f"{objective} trains {' and '.join(f'{kind}s' for kind in suits)}, and the model is {article} {model.kind}",
        path=path,
        labels=[Label("", ("model", "kind"))],
        fixes=[Fix(f"`objective: {fix}`", (Edit("set", path, fix),))],
    )


def batch_is_consistent(stage: Train, parallel: Parallel) -> Iterator[Diagnostic]:
    """As far as the spec alone decides it; the planner asks again with its own layout."""
    try:
        solve_batch(stage, parallel, fixed_dp(parallel))
    except SpecError as error:
        yield from error.diagnostics


def schedule_fits_training(stage: Train, parallel: Parallel) -> Iterator[Diagnostic]:
    """warmup_steps + decay_steps <= steps."""
    try:
        steps = solve_batch(stage, parallel, fixed_dp(parallel)).steps
    except SpecError:
        return
    schedule = stage.schedule
    decay = getattr(schedule, "decay_steps", 0)
    if schedule.warmup_steps + decay <= steps:
        return
    path = (*stage._path, "schedule", "warmup_steps" if schedule.warmup_steps >= decay else "decay_steps")
    parts = f"warm-up of {schedule.warmup_steps:,} steps" + (f" and a decay of {decay:,}" if decay else "")
    labels = [Label(f"{steps:,} steps", (*stage._path, name)) for name in ("steps", "tokens") if getattr(stage, name)]
    near = max(0, steps // 20)
    fixes = [] if decay else [Fix(f"`warmup_steps: {near}` is a twentieth", (Edit("set", path, near),))]
    yield diagnose(
        "S304", f"a {parts} does not fit in {steps:,} steps of training", path=path, labels=labels, fixes=fixes
    )


def sequences_fit_positions(model: Model, stage: Train) -> Iterator[Diagnostic]:
    yield from longer_than_model(model, stage.seq_len, (*stage._path, "seq_len"), "training sequences have")


def longer_than_model(model: Model, length: int, path: Path, words: str) -> Iterator[Diagnostic]:
    """Longer than max_seq_len: impossible with learned positions, worth a word with others."""
    if length <= model.max_seq_len:
        return
    name = ".".join(key for key in path if isinstance(key, str))
    message = f"{words} {length:,} tokens, the model's `max_seq_len` is {model.max_seq_len:,}"
    shorter = Fix(f"`{name}: {model.max_seq_len}`", (Edit("set", path, model.max_seq_len),))
    longer = Fix(f"`model.max_seq_len: {length}` if it is meant", (Edit("set", ("model", "max_seq_len"), length),))
    is_table = isinstance(model.position, Learned)
    yield diagnose(
        "S305" if is_table else "S306",
        message + (", and its positions are learned" if is_table else ""),
        path=path,
        labels=[Label("", ("model", "max_seq_len"))],
        fixes=[shorter] if is_table else [longer],
    )


def vocabulary_holds_all_bytes(model: Model, data: Data) -> Iterator[Diagnostic]:
    """Byte-level BPE starts from 256 bytes and an end of text."""
    if isinstance(data.tokenizer, TrainTokenizer) and model.vocab_size < MIN_BYTE_VOCABULARY:
        path = ("model", "vocab_size")
        yield diagnose(
            "S315",
            f"a byte-level vocabulary has at least {MIN_BYTE_VOCABULARY} entries, `vocab_size` is {model.vocab_size:,}",
            path=path,
            labels=[Label("", ("data", "tokenizer"))],
            fixes=[Fix("`vocab_size: 512`", (Edit("set", path, 512),))],
        )


def split_leaves_training_text(data: Data) -> Iterator[Diagnostic]:
    if data.split.valid >= 1:
        path = ("data", "split", "valid")
        yield diagnose(
            "S316",
            "a validation share of 1 leaves no text to train on",
            path=path,
            fixes=[Fix("`valid: 0.02`", (Edit("set", path, 0.02),))],
        )
