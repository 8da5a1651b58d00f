"""Loss, gradients and weights of distributed programs equal those of the program for one device, over 20 steps in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pool import Pool
from programs import TINY, build, imported, plan_of, tiny_spec
from safetensors.torch import save_file

from llmc.compiler.planner.layout import Layout

STEPS = 20
BATCH = 8
CLOSE = 1e-5
LAYOUTS = {
    "dp 2": Layout(dp_replicate=2),
    "zero 1 x 2": Layout(dp_shard=2, zero=1),
    "zero 2 x 2": Layout(dp_shard=2, zero=2),
    "zero 3 x 2": Layout(dp_shard=2, zero=3),
    "hsdp 2 x 2": Layout(dp_replicate=2, dp_shard=2, zero=3),
    "zero 0 of 2 shards": Layout(dp_shard=2, zero=0),
    "tp 2": Layout(tp=2),
    "tp 2 + sp": Layout(tp=2, sequence_parallel=True),
    "tp 4 + sp": Layout(tp=4, sequence_parallel=True),
    "dp 2 x tp 2": Layout(dp_shard=2, zero=3, tp=2, sequence_parallel=True),
}


def spec_of(model: dict[str, Any]) -> Any:
    train = TINY["train"] | {"global_batch": BATCH, "seq_len": 32}
    return tiny_spec(without=("serve",), model={"vocab_size": 301, **model}, train=train)


@pytest.fixture(scope="module")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes, once a model, the run of the one-device program: weights, batches, losses, gradients of two steps."""
    made: dict[str, Path] = {}

    def reference_of(name: str, model: dict[str, Any]) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_alone(spec_of(model), made[name])
        return made[name]

    return reference_of


def run_alone(spec: Any, folder: Path) -> None:
    layout = Layout(micro_batch=BATCH)
    with imported(build(spec, folder / "program", plan=plan_of(spec, layout=layout)), "train") as (program,):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        generator = torch.Generator().manual_seed(1)
        batches = torch.randint(0, spec.model.vocab_size, (STEPS, BATCH, program.SEQ_LEN + 1), generator=generator)
        tensors = {f"first.{name}": parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer = program.make_optimizer(model)
        figures = []
        for step in range(STEPS):
            if step in (0, STEPS - 1):

                def keep(*_: Any, step: int = step) -> None:
                    for name, parameter in model.named_parameters():
                        assert parameter.grad is not None
                        tensors[f"gradients.{step}.{name}"] = parameter.grad.clone()

                handle = optimizer.register_step_pre_hook(keep)
            figures.append(program.train_step(model, optimizer, iter([batches[step].numpy()]), lr=1e-3))
            if step in (0, STEPS - 1):
                handle.remove()
        tensors |= {f"last.{name}": parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses, norms = zip(*figures, strict=True)
    tensors |= {"batches": batches, "loss": torch.tensor(losses), "grad_norm": torch.tensor(norms)}
    save_file(tensors, folder / "reference.safetensors")


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_repeat_the_program_of_one_device(name: str, pool: Pool, reference_of: Any, tmp_path: Path) -> None:
    spec, layout = spec_of({}), LAYOUTS[name]
    reference = reference_of("llama", {})
    folder = build(spec, tmp_path, plan=plan_of(spec, layout=filled(layout)))
    found = pool.run("train", world_size=layout.devices, folder=str(folder), reference=str(reference), steps=STEPS)
    print(name, found)
    for rank, worst in enumerate(found):
        assert max(worst.values()) < CLOSE, (rank, worst)


def filled(layout: Layout) -> Layout:
    """With two micro-batches a step."""
    from dataclasses import replace

    return replace(layout, micro_batch=BATCH // layout.data_parallel // 2, grad_accumulation=2)
