"""A run moves from PyTorch's program to a slice and back, and goes on as if it had stayed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from programs import build, imported, plan_of
from reference import BATCH, MODELS, on_tpu, spec_of
from safetensors.torch import save_file

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.checkpoint import Checkpoints
from llmc.runtimes.pytorch.weights import named_tensors


def test_a_run_moves_to_a_slice_and_back(xla: Callable[..., str], tmp_path: Path) -> None:
    spec = spec_of(MODELS["wide"])
    slice_ = Layout(dp_replicate=2, dp_shard=2, zero=3, tp=2, micro_batch=1, grad_accumulation=2)
    build(on_tpu(spec), tmp_path / "program", plan=plan_of(on_tpu(spec), layout=slice_))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=5)
    with imported(build(spec, tmp_path / "alone", plan=plan_of(spec, layout=Layout(micro_batch=BATCH))), "train") as (
        program,
    ):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        optimizer = program.make_optimizer(model)
        batches = torch.randint(0, spec.model.vocab_size, (3, BATCH, program.SEQ_LEN + 1))
        save_file({"batches": batches}, tmp_path / "batches.safetensors")
        for step in range(3):
            if step == 2:
                checkpoints.save(step, model=model, optimizer=optimizer, cursor={})
            program.train_step(model, optimizer, iter([batches[step].numpy()]), lr=1e-3)
        xla(Path(__file__).parent / "mover.py", tmp_path, tmp_path / "batches.safetensors")
        back = program.Model()
        saved = checkpoints.load_latest(model=back, optimizer=program.make_optimizer(back))
    assert saved is not None
    assert saved.step == 3
    differences = {
        name: ((moved - stayed).norm() / stayed.norm()).item()
        for (name, stayed), moved in zip(named_tensors(model).items(), named_tensors(back).values(), strict=True)
    }
    assert {name: each for name, each in differences.items() if each > 1e-5} == {}
