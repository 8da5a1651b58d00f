"""Runs of generated training programs, from start to end in this process, on text some of whose samples are poisoned."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from programs import TINY, imported, tiny_spec

from llmc.runtimes.data import Clean, DataRecipe, PathSource, TrainBPE, prepare
from llmc.runtimes.data.loader import TokenLoader
from llmc.spec.document import Spec

BATCH, STEPS = 4, 12


def watched_spec(precision: str = "fp32", loss_scale: dict[str, Any] | None = None, **watch: Any) -> Spec:
    """Twelve steps of four sequences, on a prepared corpus, with a checkpoint every three."""
    train = TINY["train"] | {"steps": STEPS, "seq_len": 16, "global_batch": BATCH, "watch": watch}
    train |= {"precision": precision, "loss_scale": loss_scale}
    train |= {"checkpoint": {"every_steps": 3, "keep": 9}, "optimizer": {"name": "adamw", "lr": 1e-3}}
    model = {"num_layers": 1, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 300}
    return tiny_spec(without=("serve", "data"), model=model, train=train)


def corpus(folder: Path) -> Path:
    """A prepared corpus of some hundred windows."""
    texts = folder / "texts"
    texts.mkdir(parents=True)
    for number in range(8):
        (texts / f"{number}.txt").write_text(" ".join(str(number * word) for word in range(200)))
    clean = Clean(min_chars=1, dedup=None)
    recipe = DataRecipe(
        [PathSource("texts/*.txt")], clean=clean, tokenizer=TrainBPE(vocab_size=300), valid_fraction=0.1
    )
    prepare(recipe, folder / "corpus", root=folder)
    return folder / "corpus"


def run(
    folder: Path, run_dir: Path, data: Path, *flags: str, poison: Mapping[int, float], pause_s: float = 0.0
) -> list[int]:
    """Run a program's main. `poison`: sample -> what the loss of its micro-batch is multiplied by; `pause_s`: before each
    micro-batch of this rank. The samples that this rank took, in their order."""
    taken: list[int] = []
    argv = ["train.py", "--data", str(data), "--run-dir", str(run_dir), "--threads", "1", *flags]
    with imported(folder, "train") as (program,), _poisoned(program.Model, taken, poison, pause_s), _arguments(argv):
        program.main()
    return taken


@contextmanager
def _poisoned(model: Any, taken: list[int], poison: Mapping[int, float], pause_s: float) -> Iterator[None]:
    windows_at, loss = TokenLoader.windows_at, model.loss

    def seen(self: TokenLoader, sample: int, *, count: int) -> Any:
        taken.extend(range(sample, sample + count))
        time.sleep(pause_s)
        return windows_at(self, sample, count=count)

    def spoiled(self: Any, *args: Any) -> Any:
        factors = [poison[each] for each in taken[-BATCH // 2 :] if each in poison]
        return loss(self, *args) * math.prod(factors)

    TokenLoader.windows_at, model.loss = seen, spoiled  # type: ignore[method-assign]
    try:
        yield
    finally:
        TokenLoader.windows_at, model.loss = windows_at, loss


@contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    kept, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = kept


def lines(path: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl or watch.jsonl, without what differs from run to run."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in found]
