"""A file of published training measurements -> rows with types. Columns: README.md of this folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TRAINING_COLUMNS = ("source", "model", "seq_len", "accelerator", "accelerators", "precision", "global_batch")
"""Without these a file holds no training rows."""


class NotMeasurements(Exception):
    """The file is no table of training measurements; the text says what is missing."""


@dataclass(frozen=True)
class TrainRow:
    """One published step. None: the source does not say."""

    id: str
    source: str
    model: str
    layers: int | None
    hidden: int | None
    ffn: int | None
    heads: int | None
    kv_heads: int | None
    vocab: int | None
    experts: int | None
    topk: int | None
    seq_len: int
    accelerator: str
    accelerators: int
    per_node: int | None
    inter_node_gb_s: float | None
    precision: str
    dp: int
    zero: str
    tp: int
    sequence_parallel: bool
    pp: int
    virtual_stages: int
    cp: int
    ep: int
    micro_batch: int
    global_batch: int
    recompute: str
    """none, selective, full, or nothing where the source does not print it."""
    step_time_s: float | None
    peak_mem_gib: float | None
    notes: str

    @property
    def study(self) -> str:
        """The publication without the table or the case: layouts of one study compete though each has its own page."""
        return re.sub(r",? (case|table at line|tests/functional_tests/test_cases)\b.*", "", self.source)

    @property
    def layout(self) -> tuple[object, ...]:
        """What tells two layouts of one model on one cluster apart."""
        degrees = (
            self.heads,
            self.dp,
            self.zero,
            self.tp,
            self.sequence_parallel,
            self.pp,
            self.virtual_stages,
            self.cp,
            self.ep,
        )
        return (*degrees, self.micro_batch, self.recompute)

    @property
    def question(self) -> tuple[object, ...]:
        """What layouts compete for: tokens of one model, in one format, on one cluster."""
        work = (self.model, self.layers, self.hidden, self.seq_len, self.precision)
        return (*work, self.accelerator, self.accelerators)


PUBLISHERS = (
    "Megatron-Bridge|NVIDIA/NeMo|Megatron-LM|SimuMax|llm-foundry|torchtitan|pytorch/ao|fms-fsdp|InternEvo|MindSpeed|tpu-recipes"
    "|JAX-Toolbox|bigscience|vTrain|calculon"
)


def publisher(source: str) -> str:
    """Who published a source: rows of one repository or paper are not independent."""
    known = re.search(PUBLISHERS, source)
    return known[0] if known else source


def read_rows(path: Path) -> list[TrainRow]:
    """All rows of a file. Raises NotMeasurements."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in TRAINING_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise NotMeasurements(f"{path} has no column {', '.join(missing)}")
        return list(_rows(reader, path=path))


def _rows(reader: csv.DictReader[str], *, path: Path) -> Iterator[TrainRow]:
    for number, cells in enumerate(reader, start=2):
        try:
            yield row_of(cells, number=number)
        except ValueError as fault:
            raise NotMeasurements(f"{path}, line {number}: {fault}") from fault


def row_of(cells: Mapping[str, str | None], *, number: int = 0) -> TrainRow:
    """One line of the table."""

    def text(name: str) -> str:
        return (cells.get(name) or "").strip()

    def whole(name: str) -> int | None:
        return int(float(text(name))) if text(name) else None

    def real(name: str) -> float | None:
        return float(text(name)) if text(name) else None

    def needed(name: str) -> int:
        value = whole(name)
        if value is None or value < 1:
            raise ValueError(f"{name} is `{text(name)}`; a whole number of 1 or more is needed")
        return value

    seq_len, accelerators, global_batch = needed("seq_len"), needed("accelerators"), needed("global_batch")
    tp, pp, cp = whole("tp") or 1, whole("pp") or 1, whole("cp") or 1
    dp = whole("dp") or max(1, accelerators // (tp * pp * cp))
    step_s, rate = real("step_time_s"), real("tokens_per_s_per_accel")
    if step_s is None and rate:
        step_s = global_batch * seq_len / rate / accelerators
    return TrainRow(
        id=text("id") or f"line {number}",
        source=text("source"),
        model=text("model"),
        layers=whole("layers"),
        hidden=whole("hidden"),
        ffn=whole("ffn"),
        heads=whole("heads"),
        kv_heads=whole("kv_heads"),
        vocab=whole("vocab"),
        experts=whole("experts"),
        topk=whole("topk"),
        seq_len=seq_len,
        accelerator=text("accelerator"),
        accelerators=accelerators,
        per_node=whole("per_node"),
        inter_node_gb_s=real("inter_node_gb_s"),
        precision=text("precision"),
        dp=dp,
        zero=text("zero_stage"),
        tp=tp,
        sequence_parallel=text("sp") == "yes",
        pp=pp,
        virtual_stages=whole("vpp") or 1,
        cp=cp,
        ep=whole("ep") or 1,
        micro_batch=whole("micro_batch") or 1,
        global_batch=global_batch,
        recompute=text("recompute"),
        step_time_s=step_s,
        peak_mem_gib=real("peak_mem_gib"),
        notes=text("notes"),
    )
