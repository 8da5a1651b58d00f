"""Training in fp8 on one device, by the eager twin."""

from __future__ import annotations

import statistics
from pathlib import Path

from programs import build, plan_of
from watched import corpus, lines, run, watched_spec

from llmc.compiler.planner.layout import Layout

STEPS = 30


def test_the_loss_falls_as_in_bf16(tmp_path: Path) -> None:
    data, last = corpus(tmp_path / "data"), {}
    for precision in ("bf16", "fp8"):
        spec = watched_spec(precision=precision)
        assert spec.train is not None
        spec = spec.model_copy(update={"train": (spec.train[0].model_copy(update={"steps": STEPS}),)})
        program = build(spec, tmp_path / precision, plan=plan_of(spec, layout=Layout(micro_batch=4)))
        assert ("Fp8Linear(" in (program / "model.py").read_text()) == (precision == "fp8")
        run(program, tmp_path / "runs" / precision, data, poison={})
        losses = [line["loss"] for line in lines(tmp_path / "runs" / precision / "metrics.jsonl")]
        last[precision] = statistics.mean(losses[-5:])
        assert last[precision] < losses[0] - 0.2
    assert abs(last["fp8"] - last["bf16"]) < 0.05
