"""Generated training programs learn, and their loss and gradients are those of the plain formula."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES
from programs import TINY, build, imported, plan_of, tiny_spec

from llmc.compiler.planner.layout import Layout

LEARNING = (
    "llama",
    "gemma2",
    "gpt2",
    "gpt-j",
    "bloom",
    "sinks",
    "no-position",
    "mixtral",
    "switch",
    "gpt-oss",
    "deepseek-v3",
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_equal_the_plain_formula(name: str, tmp_path: Path) -> None:
    train = TINY["train"] | {"z_loss": 1e-3}
    with imported(build(tiny_spec(model=ARCHITECTURES[name], train=train), tmp_path), "model") as (module,):
        torch.manual_seed(0)
        model = module.Model()
        tokens, targets = torch.randint(0, 512, (2, 2, 24))
        fused = model.loss(tokens, targets)
        fused.backward()
        found = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
        model.zero_grad()

        logits = model.logits(model(tokens)).flatten(0, 1)
        plain = F.cross_entropy(logits, targets.flatten(), reduction="sum")
        plain = plain + 1e-3 * logits.logsumexp(-1).square().sum()
        if hasattr(model, "router_loss"):
            plain = plain + tokens.numel() * model.router_loss()
        plain.backward()
        torch.testing.assert_close(fused, plain)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(
                found[key], parameter.grad, atol=1e-4, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", LEARNING)
def test_a_few_steps_lower_the_loss(name: str, tmp_path: Path) -> None:
    folder = build(tiny_spec(model=ARCHITECTURES[name]), tmp_path)
    with imported(folder, "train") as (program,):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        optimizer = program.make_optimizer(model)
        losses = [program.train_step(model, optimizer, patterns(), lr=3e-3)[0] for _ in range(8)]
        assert losses[0] == pytest.approx(np.log(512), rel=0.1)
        assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_activations_changes_no_gradient(recompute: str, tmp_path: Path) -> None:
    spec = tiny_spec(model=ARCHITECTURES["gemma2"])
    plans = {"kept": plan_of(spec), "recomputed": plan_of(spec, layout=Layout(micro_batch=4, recompute=recompute))}
    tokens, targets = torch.randint(0, 512, (2, 2, 24))
    grads = {}
    for name, plan in plans.items():
        with imported(build(spec, tmp_path / name, plan=plan), "model") as (module,):
            torch.manual_seed(0)
            model = module.Model()
            model.loss(tokens, targets).backward()
            grads[name] = [parameter.grad for parameter in model.parameters()]
    for kept, recomputed in zip(grads["kept"], grads["recomputed"], strict=True):
        assert torch.equal(kept, recomputed)


def test_accumulation_weighs_every_token_alike(tmp_path: Path) -> None:
    """4 x 2 sequences give the step that 8 x 1 give."""
    spec = tiny_spec()
    layouts = {"whole": Layout(micro_batch=8), "parts": Layout(micro_batch=2, grad_accumulation=4)}
    batch = next(patterns(8))
    results = {}
    for name, layout in layouts.items():
        with imported(build(spec, tmp_path / name, plan=plan_of(spec, layout=layout)), "train") as (program,):
            torch.manual_seed(0)
            model = program.Model()
            loader = iter(batch.reshape(-1, layout.micro_batch, 65))
            results[name] = program.train_step(model, program.make_optimizer(model), loader, lr=1e-3)
    assert results["whole"] == pytest.approx(results["parts"], rel=1e-5)


def test_matrices_decay_and_vectors_do_not(tmp_path: Path) -> None:
    with imported(build(tiny_spec(model=ARCHITECTURES["gpt2"]), tmp_path), "train") as (program,):
        model = program.Model()
        decay = {
            id(p): group["weight_decay"]
            for group in program.make_optimizer(model).param_groups
            for p in group["params"]
        }
        for name, parameter in model.named_parameters():
            is_vector = name.endswith("bias") or "norm" in name
            assert decay[id(parameter)] == (0.0 if is_vector else 0.1), name


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "cosine", "warmup_steps": 10, "min_lr_ratio": 0.1}, {1: 0.1, 10: 1.0, 55: 0.55, 100: 0.1}),
        ({"name": "cosine", "min_lr_ratio": 0.0}, {50: 0.5, 100: 0.0}),
        ({"name": "linear", "warmup_steps": 20, "min_lr_ratio": 0.2}, {10: 0.5, 20: 1.0, 60: 0.6, 100: 0.2}),
        ({"name": "constant", "warmup_steps": 4}, {2: 0.5, 4: 1.0, 100: 1.0}),
        ({"name": "wsd", "warmup_steps": 10, "decay_steps": 40}, {5: 0.5, 10: 1.0, 60: 1.0, 80: 0.5, 100: 0.0}),
        ({"name": "inverse_sqrt", "warmup_steps": 25}, {25: 1.0, 100: 0.5}),
    ],
)
def test_the_rate_follows_the_schedule(schedule: dict, expected: dict[int, float], tmp_path: Path) -> None:
    train = TINY["train"] | {"schedule": schedule, "steps": 100, "optimizer": {"name": "adamw", "lr": 1.0}}
    with imported(build(tiny_spec(train=train), tmp_path), "train") as (program,):
        assert {step: program.learning_rate(step) for step in expected} == pytest.approx(expected)


def test_a_diverged_step_leaves_the_weights_alone(tmp_path: Path) -> None:
    with imported(build(tiny_spec(), tmp_path), "train") as (program,):
        model = program.Model()
        with torch.no_grad():
            model.embed.weight[0, 0] = torch.inf
        before = model.norm.weight.clone()
        with pytest.raises(Exception, match="diverged"):
            program.train_step(model, program.make_optimizer(model), zeros(), lr=1e-3)
        assert torch.equal(before, model.norm.weight)


def patterns(batch: int = 4) -> Iterator[np.ndarray]:
    """Batches [B, T + 1] that can be learnt: each sequence counts up from a random token."""
    generator = np.random.default_rng(0)
    while True:
        yield (generator.integers(0, 32, (batch, 1)) + np.arange(65)) % 32


def zeros() -> Iterator[np.ndarray]:
    while True:
        yield np.zeros((4, 65), np.int64)
