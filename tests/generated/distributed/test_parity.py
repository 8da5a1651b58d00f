"""Loss, gradients and weights of distributed programs equal those of the program for one device, over 20 steps in fp32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from pool import Pool
from programs import TINY, build, imported, plan_of, tiny_spec
from safetensors.torch import save_file

from llmc.compiler.planner.layout import Layout

STEPS = 20
BATCH = 8
CLOSE = 1e-5
CLOSE_TENSOR = 1e-4
"""Of a single tensor's gradient: those of norms are small sums of large numbers, and rounding shows in them first."""
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": ARCHITECTURES["gpt2"],
    "gemma2": ARCHITECTURES["gemma2"],
    "sinks": ARCHITECTURES["sinks"],
    "qwen3": ARCHITECTURES["qwen3"],
    "neox": ARCHITECTURES["neox"],
    "wide": {"num_heads": 8, "num_kv_heads": 2},
}
"""Fields that differ from TINY's: grouped heads, an odd vocabulary and no biases are in all but where they say otherwise."""


@dataclass(frozen=True)
class Case:
    layout: Layout
    model: str = "llama"


CASES = {
    "dp 2": Case(Layout(dp_replicate=2)),
    "zero 0 of 2 shards": Case(Layout(dp_shard=2, zero=0)),
    "zero 1 x 2": Case(Layout(dp_shard=2, zero=1)),
    "zero 2 x 2": Case(Layout(dp_shard=2, zero=2)),
    "zero 3 x 2": Case(Layout(dp_shard=2, zero=3)),
    "hsdp 2 x 2": Case(Layout(dp_replicate=2, dp_shard=2, zero=3)),
    "hsdp 2 x 2, zero 1": Case(Layout(dp_replicate=2, dp_shard=2, zero=1)),
    "tp 2": Case(Layout(tp=2)),
    "tp 2 + sp": Case(Layout(tp=2, sequence_parallel=True)),
    "tp 4, 2 kv heads": Case(Layout(tp=4)),
    "tp 4 + sp, 2 kv heads": Case(Layout(tp=4, sequence_parallel=True)),
    "dp 2 x tp 2 + sp": Case(Layout(dp_shard=2, zero=3, tp=2, sequence_parallel=True)),
    "dp 2 x tp 2, zero 1": Case(Layout(dp_shard=2, zero=1, tp=2)),
    "cp 2 ring": Case(Layout(cp=2, cp_kind="ring", zero=1)),
    "cp 4 ring": Case(Layout(cp=4, cp_kind="ring", zero=3)),
    "cp 2 ulysses": Case(Layout(cp=2, cp_kind="ulysses", zero=3)),
    "cp 4 ulysses, 2 kv heads": Case(Layout(cp=4, cp_kind="ulysses", zero=1)),
    "dp 2 x cp 2 ring": Case(Layout(dp_shard=2, cp=2, cp_kind="ring", zero=3)),
    "dp 2 x cp 2 ulysses, replicas": Case(Layout(dp_replicate=2, cp=2, cp_kind="ulysses", zero=3)),
    "tp 2 + sp x cp 2 ring": Case(Layout(tp=2, sequence_parallel=True, cp=2, cp_kind="ring", zero=3)),
    "cp 2 ring, learned positions": Case(Layout(cp=2, cp_kind="ring", zero=3), "gpt2"),
    "tp 2, biases": Case(Layout(tp=2), "gpt2"),
    "tp 2 + sp, biases": Case(Layout(tp=2, sequence_parallel=True), "gpt2"),
    "tp 2 + sp, softcaps": Case(Layout(tp=2, sequence_parallel=True), "gemma2"),
    "tp 2 + sp, sinks": Case(Layout(tp=2, sequence_parallel=True), "sinks"),
    "tp 2, norms of heads": Case(Layout(tp=2), "qwen3"),
    "tp 2 + sp, parallel blocks": Case(Layout(tp=2, sequence_parallel=True), "neox"),
}


def spec_of(model: dict[str, Any]) -> Any:
    train = TINY["train"] | {"global_batch": BATCH, "seq_len": 32}
    return tiny_spec(without=("serve",), model={"vocab_size": 301, **model}, train=train)


@pytest.fixture(scope="module")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes, once a model, the run of the one-device program: weights, batches, losses, gradients of two steps."""
    made: dict[str, Path] = {}

    def reference_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_alone(spec_of(MODELS[name]), made[name])
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
    losses, norms = zip(*figures, strict=True)
    tensors |= {"batches": batches, "loss": torch.tensor(losses), "grad_norm": torch.tensor(norms)}
    save_file(tensors, folder / "reference.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_layouts_repeat_the_program_of_one_device(name: str, pool: Pool, reference_of: Any, tmp_path: Path) -> None:
    case = CASES[name]
    spec, layout = spec_of(MODELS[case.model]), filled(case.layout)
    reference = reference_of(case.model)
    folder = build(spec, tmp_path, plan=plan_of(spec, layout=layout))
    found = pool.run("train", world_size=layout.devices, folder=str(folder), reference=str(reference), steps=STEPS)
    for rank, worst in enumerate(found):
        assert worst.pop("one_gradient") < CLOSE_TENSOR, (rank, worst)
        assert max(worst.values()) < CLOSE, (rank, worst)


def filled(layout: Layout) -> Layout:
    """With two micro-batches a step."""
    return replace(layout, micro_batch=BATCH // layout.data_parallel // 2, grad_accumulation=2)
