"""Mixtures of experts in generated programs: dispatch, capacity, balance by a loss and by a bias, recomputation."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES
from programs import TINY, build, imported, plan_of, tiny_spec
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.checkpoint import Checkpoints

WITH_EXPERTS = [name for name, fields in ARCHITECTURES.items() if "moe" in fields]


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return module


def visit_one_by_one(moe: Any, tokens: Tensor, activation: str, room: float = math.inf) -> Tensor:
    """What each token's experts give, a visit at a time, the first tokens first; an expert takes `room` of them."""
    chosen, weights = moe.route(tokens)
    taken: Counter[int] = Counter()
    rows = []
    for token, experts, factors in zip(tokens, chosen.tolist(), weights, strict=True):
        row = torch.zeros_like(token)
        for expert, factor in zip(experts, factors, strict=True):
            taken[expert] += 1
            if taken[expert] > room:
                continue
            up = (moe.experts.gate_up if hasattr(moe.experts, "gate_up") else moe.experts.up)[expert] @ token
            if activation == "clamped_swiglu":
                gate, up = (up + moe.experts.gate_up_bias[expert]).chunk(2)
                gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
                hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1.0)
            elif activation == "relu":
                hidden = F.relu(up)
            else:
                gate, up = up.chunk(2)
                hidden = F.silu(gate) * up
            out = moe.experts.down[expert] @ hidden
            row = row + factor * (out + moe.experts.down_bias[expert] if activation == "clamped_swiglu" else out)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_tokens_visit_their_experts(name: str, is_training: bool, tmp_path: Path) -> None:
    fields = ARCHITECTURES[name]
    with imported(build(tiny_spec(model=fields), tmp_path), "model") as (module,):
        moe = randomised(module.Moe()).double().train(is_training)
        x = torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1.0  # alike
        tokens = x.flatten(0, 1)
        room = math.inf
        if is_training and fields["moe"].get("capacity_factor"):
            room = math.ceil(1.25 * len(tokens) / 4)
            assert max(Counter(moe.route(tokens)[0].flatten().tolist()).values()) > room  # something is dropped
        expected = visit_one_by_one(moe, tokens, fields.get("mlp", TINY["model"]["mlp"])["activation"], room)
        if hasattr(moe, "shared"):
            shared = moe.shared(tokens)
            expected = expected + (
                moe.shared_gate(tokens).sigmoid() * shared if hasattr(moe, "shared_gate") else shared
            )
        torch.testing.assert_close(moe(x).flatten(0, 1), expected)


def test_the_loss_of_balance_is_that_of_mixtral_for_even_use_its_weight(tmp_path: Path) -> None:
    model = ARCHITECTURES["mixtral"] | {"num_layers": 1, "moe": {"num_experts": 4, "experts_per_token": 2}}
    with imported(build(tiny_spec(model=model), tmp_path), "model") as (module,):
        moe = randomised(module.Moe())
        tokens = torch.randn(50, 64)
        moe.route(tokens)
        known = load_balancing_loss_func((moe.router(tokens),), num_experts=4, top_k=2)
        assert isinstance(known, Tensor)
        torch.testing.assert_close(
            moe.router_loss, 0.01 * known / 2
        )  # theirs is 2, the experts of a token, for even use
        moe.router.weight.data.zero_()
        moe.route(tokens)
        assert moe.router_loss.item() == pytest.approx(0.01)


def test_accumulation_weighs_the_routers_loss_like_that_of_tokens(tmp_path: Path) -> None:
    """The gradient of a step of 2 micro-batches is the mean of theirs, routers' part included; validation is without it."""
    spec = tiny_spec(model=ARCHITECTURES["mixtral"], train=TINY["train"] | {"grad_clip": None})
    layout = Layout(micro_batch=4, grad_accumulation=2)
    batches = [torch.randint(0, 512, (4, 65)) for _ in range(2)]
    with imported(build(spec, tmp_path, plan=plan_of(spec, layout=layout)), "train") as (program,):
        model = randomised(program.Model())
        parts, losses, routers = [], [], []
        for batch in batches:
            hidden = model(batch[:, :-1])
            tokens = F.cross_entropy(model.logits(hidden).flatten(0, 1), batch[:, 1:].flatten())
            (tokens + model.router_loss()).backward()
            parts.append([parameter.grad.clone() for parameter in model.parameters()])
            losses.append((tokens + model.router_loss()).item())
            routers.append(model.router_loss().item())
            model.zero_grad()
        mean = [(a + b) / 2 for a, b in zip(*parts, strict=True)]
        assert min(routers) > 0.01

        optimizer = program.make_optimizer(model)
        loss, grad_norm = program.train_step(model, optimizer, iter([batch.numpy() for batch in batches]), lr=0.0)
        assert loss == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert grad_norm == pytest.approx(torch.nn.utils.get_total_norm(mean).item(), rel=1e-4)

        model.eval()
        with torch.no_grad():
            plain = model.loss(batches[0][:, :-1], batches[0][:, 1:]).item() / 256
        assert plain == pytest.approx(losses[0] - routers[0], rel=1e-5)


def test_a_bias_evens_out_the_use_of_experts_and_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    folder = build(tiny_spec(model=ARCHITECTURES["deepseek-v3"]), tmp_path / "build")
    with imported(folder, "train", "model") as (program, module):
        torch.manual_seed(0)
        model = program.Model()
        program.init_weights(model)
        optimizer = program.make_optimizer(model)
        batch = torch.randint(0, 512, (4, 65)).numpy()
        layers = [part for part in model.modules() if isinstance(part, module.Moe)]
        for moe in layers:
            moe.balance_bias += torch.linspace(-0.02, 0.02, 8)  # as if use had become uneven
        unevenness = []
        for _ in range(30):
            before = [moe.balance_bias.clone() for moe in layers]
            visits: list[Tensor] = []
            handles = [
                moe.register_forward_hook(lambda moe, *_, seen=visits: seen.append(moe.visits.clone()))
                for moe in layers
            ]
            program.train_step(model, optimizer, iter([batch, batch]), lr=1e-5)
            for handle in handles:
                handle.remove()
            last = visits[-len(layers) :]  # after the second micro-batch
            for moe, old, seen in zip(layers, before, last, strict=True):
                assert seen.sum() == 2 * 4 * 64 * 3
                torch.testing.assert_close(moe.balance_bias, old + 0.001 * (seen.mean() - seen).sign())
                assert not moe.visits.any()
            unevenness.append(max(float(seen.max() / seen.mean()) for seen in last))
        assert unevenness[-1] < 1.1 < 1.5 < unevenness[0]

        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
        checkpoints.save(30, model=model, optimizer=optimizer, cursor={})
        again = program.Model()
        checkpoints.load_latest(model=again, optimizer=program.make_optimizer(again))
        for part, moe in zip((part for part in again.modules() if isinstance(part, module.Moe)), layers, strict=True):
            assert torch.equal(part.balance_bias, moe.balance_bias)


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3"])
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_activations_changes_no_gradient_of_experts(name: str, recompute: str, tmp_path: Path) -> None:
    spec = tiny_spec(model=ARCHITECTURES[name])
    plans = {"kept": plan_of(spec), "recomputed": plan_of(spec, layout=Layout(micro_batch=4, recompute=recompute))}
    tokens, targets = torch.randint(0, 512, (2, 2, 24))
    grads = {}
    for kind, plan in plans.items():
        with imported(build(spec, tmp_path / kind, plan=plan), "model") as (module,):
            model = randomised(module.Model())
            model.loss(tokens, targets).backward()
            grads[kind] = [parameter.grad for parameter in model.parameters()]
    for kept, recomputed in zip(grads["kept"], grads["recomputed"], strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-6, atol=1e-6)
