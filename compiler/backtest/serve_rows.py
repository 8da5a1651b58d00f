"""A file of published serving measurements -> rows with types. Columns: README.md of this folder."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .rows import NotMeasurements

SERVING_COLUMNS = ("source", "engine", "model", "accelerator", "input_tokens", "output_tokens", "batch_or_concurrency")
"""Without these a file holds no serving rows."""
SHORTER = 0.9
"""Lengths that notes call `0.9x nominal` were drawn 10 % shorter."""


@dataclass(frozen=True)
class ServeRow:
    """One published load. None: the source does not say."""

    id: str
    source: str
    engine: str
    release: str
    model: str
    accelerator: str
    accelerators: int
    tp: int
    pp: int
    ep: int
    dp: int
    weights: str
    kv: str
    input_tokens: float | None
    output_tokens: float | None
    concurrency: float | None
    request_rate: float | None
    ttft_s: float | None
    tpot_s: float | None
    output_tokens_per_s: float | None
    notes: str

    @property
    def group(self) -> str:
        """Source and engine: rows of one are not independent. Files of one run each are one source."""
        source = re.sub(r"(@\w+)\s+(results_\S+|docs/performance-lab\S* line \d+).*$", r"\1", self.source)
        source = re.sub(r"docs/performance-lab/.*$", "docs/performance-lab", source)
        return f"{source} | {self.engine}"

    @property
    def publisher(self) -> str:
        """Who is left out together."""
        if "InferenceX" in self.source or "NVIDIA internal" in self.source:
            return self.group
        return re.split(r"[@\s]", self.source)[0]

    @property
    def per_device_rate(self) -> float | None:
        """Output tokens a second and device."""
        if self.output_tokens_per_s is not None:
            return self.output_tokens_per_s / self.accelerators
        if self.concurrency is None or self.tpot_s is None or self.output_tokens is None:
            return None
        whole = (self.ttft_s or 0.0) + (self.output_tokens - 1) * self.tpot_s
        return self.concurrency * self.output_tokens / whole / self.accelerators

    @property
    def question(self) -> tuple[object, ...]:
        """What layouts compete for: one load a device, of one model, in one format, in one release of an engine."""
        work = (
            self.group,
            self.release,
            self.model,
            self.accelerator,
            self.weights,
            self.input_tokens,
            self.output_tokens,
        )
        return (*work, (self.concurrency or 0.0) / self.accelerators)

    @property
    def layout(self) -> tuple[int, ...]:
        return (self.accelerators, self.tp, self.pp, self.ep)


def is_serving(path: Path) -> bool:
    """Whether the file's header is one of serving rows."""
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    return "engine" in header and "batch_or_concurrency" in header


def read_serve_rows(path: Path) -> list[ServeRow]:
    """All rows of a file. Raises NotMeasurements."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in SERVING_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise NotMeasurements(f"{path} has no column {', '.join(missing)}")
        rows = []
        for number, cells in enumerate(reader, start=2):
            try:
                rows.append(serve_row_of(cells, number=number))
            except ValueError as fault:
                raise NotMeasurements(f"{path}, line {number}: {fault}") from fault
        return rows


def serve_row_of(cells: Mapping[str, str | None], *, number: int = 0) -> ServeRow:
    """One line of the table."""

    def text(name: str) -> str:
        return (cells.get(name) or "").strip()

    def real(name: str, *, scale: float = 1.0) -> float | None:
        return float(text(name)) * scale if text(name) else None

    def whole(name: str, default: int = 1) -> int:
        return max(1, int(float(text(name)))) if text(name) else default

    notes = text("notes")
    lengths = SHORTER if "0.9x nominal" in notes else 1.0
    accelerators = whole("accelerators")
    return ServeRow(
        id=text("id") or f"line {number}",
        source=text("source"),
        engine=text("engine"),
        release=text("engine_version"),
        model=text("model"),
        accelerator=re.split(r"\s*\(", text("accelerator"))[0],
        accelerators=accelerators,
        tp=min(whole("tp"), accelerators),  # cores of one chip are one device here
        pp=whole("pp"),
        ep=whole("ep"),
        dp=whole("dp"),
        weights=text("weight_precision") or "bf16",
        kv=text("kv_precision"),
        input_tokens=real("input_tokens", scale=lengths),
        output_tokens=real("output_tokens", scale=lengths),
        concurrency=real("batch_or_concurrency"),
        request_rate=real("request_rate"),
        ttft_s=real("ttft_ms", scale=1e-3),
        tpot_s=real("tpot_ms", scale=1e-3),
        output_tokens_per_s=real("throughput_output_tok_s"),
        notes=notes,
    )
