"""What distributed programs are held to: the program for one device, on the same weights and batches."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES
from programs import TINY, TPU, build, imported, plan_of, tiny_spec
from safetensors.torch import save_file

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.weights import named_tensors
from llmc.spec.base import place
from llmc.spec.document import Spec
from llmc.spec.hardware import Hardware

STEPS = 20
BATCH = 8
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": ARCHITECTURES["gpt2"],
    "gemma2": ARCHITECTURES["gemma2"],
    "sinks": ARCHITECTURES["sinks"],
    "qwen3": ARCHITECTURES["qwen3"],
    "neox": ARCHITECTURES["neox"],
    "gpt-j": ARCHITECTURES["gpt-j"],
    "latent": ARCHITECTURES["latent"],
    "wide": {"num_heads": 8, "num_kv_heads": 2},
}
"""Fields that differ from TINY's: grouped heads, an odd vocabulary and no biases are in all but where they say otherwise."""


def spec_of(model: dict[str, Any], **changes: Any) -> Spec:
    """`changes` are of the training."""
    train = TINY["train"] | {"global_batch": BATCH, "seq_len": 32, "z_loss": 1e-3}
    train |= {"optimizer": {"name": "adamw", "lr": 1e-3, "eps": 1e-6}}  # no blowing up of noise in gradients near zero
    train |= changes
    return tiny_spec(without=("serve",), model={"vocab_size": 301, **model}, train=train)


def on_tpu(spec: Spec) -> Spec:
    """The same training on a slice of eight."""
    moved = spec.model_copy(update={"hardware": Hardware.model_validate(TPU)})
    place(moved)
    return moved


def run_alone(spec: Spec, folder: Path, *, micro_batch: int = BATCH, is_wide: bool = False) -> None:
    """Writes reference.safetensors: first weights, batches, losses, the gradients of the first and the last step.

    `is_wide`: in float64.
    """
    layout = Layout(micro_batch=micro_batch, grad_accumulation=BATCH // micro_batch)
    with imported(build(spec, folder / "program", plan=plan_of(spec, layout=layout)), "train") as (program,):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        if is_wide:
            model.double()
        generator = torch.Generator().manual_seed(1)
        batches = torch.randint(0, spec.model.vocab_size, (STEPS, BATCH, program.SEQ_LEN + 1), generator=generator)
        tensors = {f"first.{name}": tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        optimizer = program.make_optimizer(model)
        figures = []
        for step in range(STEPS):
            if step in (0, STEPS - 1):

                def keep(*_: Any, step: int = step) -> None:
                    for name, parameter in model.named_parameters():
                        assert parameter.grad is not None
                        tensors[f"gradients.{step}.{name}"] = parameter.grad.clone()

                handle = optimizer.register_step_pre_hook(keep)
            windows = iter(batches[step].unflatten(0, (-1, micro_batch)).numpy())
            told: dict[str, Any] = {"step": step + 1} if hasattr(program, "estimate_curvature") else {}
            if spec.train is not None and spec.train[0].precision == "fp8":
                told["precision"] = nullcontext()  # fp32 between products
            figures.append(program.train_step(model, optimizer, windows, lr=1e-3, **told))
            if step in (0, STEPS - 1):
                handle.remove()
    losses, norms = zip(*figures, strict=True)
    tensors |= {"batches": batches, "loss": torch.tensor(losses), "grad_norm": torch.tensor(norms)}
    save_file(tensors, folder / "reference.safetensors")


def filled(layout: Layout) -> Layout:
    """With two micro-batches a step."""
    return replace(layout, micro_batch=BATCH // layout.data_parallel // 2, grad_accumulation=2)
