"""What a watched training run exports: the table of its metrics, and the file that they are in.

metrics.prom has Prometheus' text format and is replaced as a whole, so node_exporter's textfile collector can read it from the
folder of the run (`--collector.textfile.directory`). A run listens on no port.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TrainingMetric:
    """A figure of the lines of metrics.jsonl or watch.jsonl under the name that Prometheus knows it by."""

    name: str
    kind: Literal["gauge", "counter"]
    figure: str
    """Key of the lines: a gauge has its latest value, a counter counts the lines that have it."""
    help: str
    labels: tuple[str, ...] = ()
    """Other keys of the same line."""


METRICS = (
    TrainingMetric("llmc_train_step", "gauge", "step", "The latest step."),
    TrainingMetric("llmc_train_loss", "gauge", "loss", "Mean loss of the step's tokens."),
    TrainingMetric("llmc_train_grad_norm", "gauge", "grad_norm", "Norm of the gradient before clipping."),
    TrainingMetric("llmc_train_lr", "gauge", "lr", "Learning rate."),
    TrainingMetric("llmc_train_tokens_per_second", "gauge", "tokens_per_s", "Tokens a second of the step."),
    TrainingMetric(
        "llmc_train_batches_left_out_total", "counter", "left_out", "Steps that were not taken, by policy.", ("policy",)
    ),
    TrainingMetric(
        "llmc_train_roll_backs_total", "counter", "back_to", "Times that the run went back to a checkpoint."
    ),
    TrainingMetric("llmc_train_lr_factor", "gauge", "lr_factor", "What the rate is multiplied by since bad steps."),
    TrainingMetric("llmc_train_loss_scale", "gauge", "loss_scale", "What the loss is multiplied by, in fp16."),
    TrainingMetric(
        "llmc_train_skipped_steps",
        "gauge",
        "skipped_steps",
        "Steps that were not taken since gradients overflowed fp16.",
    ),
    TrainingMetric(
        "llmc_train_slowest_rank_ratio",
        "gauge",
        "slowest_ratio",
        "Own time of the slowest rank over the median of all, in the latest report.",
        ("rank", "host"),
    ),
)


class Exposition:
    """The file of one run: `add` takes lines as they are written, oldest first."""

    def __init__(self, path: Path, run: str, lines: Iterable[dict[str, Any]] = ()) -> None:
        self.path, self.run = path, run
        self._latest: dict[str, dict[str, Any]] = {}  # name of a gauge -> the line
        self._counts: Counter[tuple[str, tuple[Any, ...]]] = Counter()  # name of a counter, values of its labels
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        for metric in METRICS:
            if metric.figure not in line:
                continue
            if metric.kind == "gauge":
                self._latest[metric.name] = line
            else:
                self._counts[metric.name, tuple(line[label] for label in metric.labels)] += 1

    def text(self) -> str:
        return "".join(part for metric in METRICS for part in self._family(metric))

    def write(self) -> None:
        """Replace the file, whole."""
        work = self.path.with_suffix(".tmp")
        work.write_text(self.text(), encoding="utf-8")
        os.replace(work, self.path)  # noqa: PTH105 (one call for both systems)

    def _family(self, metric: TrainingMetric) -> Iterator[str]:
        samples = list(self._samples(metric))
        if samples:
            yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
        for labels, value in samples:
            shown = ",".join(f'{name}="{_escaped(str(text))}"' for name, text in {"run": self.run, **labels}.items())
            yield f"{metric.name}{{{shown}}} {'NaN' if math.isnan(value) else value}\n"

    def _samples(self, metric: TrainingMetric) -> Iterator[tuple[dict[str, Any], float]]:
        if metric.kind == "gauge":
            line = self._latest.get(metric.name)
            if line is not None:
                yield {label: line[label] for label in metric.labels}, line[metric.figure]
            return
        counts = {labels: count for (name, labels), count in self._counts.items() if name == metric.name}
        for labels, count in (counts or ({(): 0} if not metric.labels else {})).items():
            yield dict(zip(metric.labels, labels, strict=True)), count


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
