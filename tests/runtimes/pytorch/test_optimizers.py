"""Optimizers against torch.optim's, or the published rule in float64, on weights of several shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llmc.runtimes.pytorch.drawn_labels import draw_labels
from llmc.runtimes.pytorch.optimizers.adafactor import Adafactor
from llmc.runtimes.pytorch.optimizers.average import keep_average
from llmc.runtimes.pytorch.optimizers.lion import Lion
from llmc.runtimes.pytorch.optimizers.muon import Muon, orthogonalised
from llmc.runtimes.pytorch.optimizers.sophia import Sophia, draws

SHAPES = ((6, 4), (3, 8), (5,))
DECAY = 0.1
STEPS = 6


def weights(*, shapes: tuple[tuple[int, ...], ...] = SHAPES, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def trained(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], given: list[nn.Parameter]) -> list[Tensor]:
    """The weights after a few steps with made-up gradients."""
    optimizer = make(given)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 / (1 + step)
        for each in given:
            each.grad = torch.randn(each.shape, generator=generator, dtype=each.dtype) * 10.0 ** (step - 3)
        optimizer.step()
    return [each.detach() for each in given]


def muon(groups: list[dict], **changes: object) -> Muon:
    given = {"lr": 0.02, "momentum": 0.9, "betas": (0.9, 0.95), "eps": 1e-8, "qkv_rows": None, "dtype": None}
    return Muon(groups, **{**given, **changes})  # type: ignore[arg-type]


def as_matrices(params: list[nn.Parameter], *names: str) -> list[dict]:
    return [{"params": list(zip(names, params, strict=True)), "is_muon": True, "weight_decay": DECAY}]


def test_adafactor_is_that_of_torch() -> None:
    ours = trained(lambda params: Adafactor([{"params": params, "weight_decay": DECAY}], lr=0.02), weights())
    theirs = trained(lambda params: torch.optim.Adafactor(params, lr=0.02, weight_decay=DECAY), weights())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0.0)


def test_adafactor_keeps_rows_and_columns() -> None:
    given = weights()
    optimizer = Adafactor([{"params": given}], lr=0.02)
    trained(lambda _: optimizer, given)
    kept = [sum(each.numel() for key, each in optimizer.state[p].items() if key != "step") for p in given]
    assert kept == [6 + 4, 3 + 8, 5]


def test_lion_is_the_published_rule() -> None:
    betas = (0.9, 0.99)
    ours = trained(lambda params: Lion([{"params": params, "weight_decay": DECAY}], lr=0.02, betas=betas), weights())
    expected = weights()
    momenta = [torch.zeros_like(each) for each in expected]
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        lr = 0.02 / (1 + step)
        for weight, momentum in zip(expected, momenta, strict=True):
            gradient = torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 10.0 ** (step - 3)
            update = torch.sign(betas[0] * momentum + (1 - betas[0]) * gradient)
            weight.data -= lr * (update + DECAY * weight.data)
            momentum.copy_(betas[1] * momentum + (1 - betas[1]) * gradient)
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=1e-12, atol=0.0)


def test_sophia_is_the_published_rule() -> None:
    """Estimates after the first step and the fourth; the rate bounds how far an element goes."""
    betas, rho, num_tokens = (0.9, 0.99), 0.04, 50
    expected, given = weights(), weights()
    optimizer = Sophia([{"params": given, "weight_decay": DECAY}], lr=0.02, betas=betas, rho=rho)
    momenta, curvatures = ([torch.zeros_like(each) for each in expected] for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    clipped = 0
    for step in range(STEPS):
        gradients = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in given]
        estimates = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in given]
        for each, gradient in zip(given, gradients, strict=True):
            each.grad = gradient.clone()
        optimizer.step()
        for number, weight in enumerate(expected):
            momenta[number] = betas[0] * momenta[number] + (1 - betas[0]) * gradients[number]
            ratio = momenta[number].abs() / (rho * curvatures[number] + 1e-15)
            clipped += int((ratio > 1).sum())
            weight.data -= 0.02 * (momenta[number].sign() * ratio.clamp(max=1.0) + DECAY * weight.data)
        if step % 3 == 0:
            for number, each in enumerate(given):
                each.grad = estimates[number].clone()
                curvatures[number] = betas[1] * curvatures[number] + (1 - betas[1]) * num_tokens * each.grad.square()
            optimizer.update_curvature(num_tokens=num_tokens)
    assert sum(each.numel() for each in given) < clipped < STEPS * sum(each.numel() for each in given)
    for mine, other in zip(given, expected, strict=True):
        torch.testing.assert_close(mine.detach(), other.detach(), rtol=1e-12, atol=1e-15)


def test_labels_are_drawn_as_often_as_a_model_predicts_them() -> None:
    """5,000 draws of eight labels: each within four standard deviations; a chunk changes nothing."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    hidden = torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(5000, 4)
    draw = draws(0, step=1, first=0, sequences=5, tokens=1000).flatten()
    labels = draw_labels(hidden, weight, draw, chunk=512, softcap=2.0)
    expected = (2.0 * torch.tanh(hidden[0] @ weight.T / 2.0)).softmax(-1)
    found = labels.bincount(minlength=8) / 5000
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / 5000).sqrt()).all()
    assert torch.equal(labels, draw_labels(hidden, weight, draw, chunk=5000, softcap=2.0))


def test_draws_are_those_of_a_sequence_wherever_it_is() -> None:
    whole = draws(3, step=11, first=0, sequences=6, tokens=9)
    assert torch.equal(whole[4:], draws(3, step=11, first=4, sequences=2, tokens=9))
    assert not torch.equal(whole, draws(3, step=21, first=0, sequences=6, tokens=9))


def test_muon_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the bf16 that torch.optim's iterates in."""
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    shapes = ((6, 4), (3, 8))
    ours = trained(lambda params: muon(as_matrices(params, "out", "up")), weights(shapes=shapes))
    theirs = trained(
        lambda params: torch.optim.Muon(
            params, lr=0.02, momentum=0.9, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        weights(shapes=shapes),
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=1e-10, atol=1e-14)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrix = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ found @ v.mT
    assert ((inner.diagonal(dim1=-2, dim2=-1) - 1.0).abs() < 0.35).all()
    assert (inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-10


def test_muon_takes_matrices_below_one_another_apart() -> None:
    """qkv as three of them, gate and up as two, and each expert by itself."""
    (whole,) = trained(
        lambda params: muon(as_matrices(params, "layers.0.attn.qkv.weight"), qkv_rows=(4, 2, 2)),
        weights(shapes=((8, 6),)),
    )
    start = weights(shapes=((8, 6),))[0].detach()
    generator = torch.Generator().manual_seed(1)
    gradients = [
        torch.randn(8, 6, generator=generator, dtype=torch.float64) * 10.0 ** (step - 3) for step in range(STEPS)
    ]
    for rows in (slice(0, 4), slice(4, 6), slice(6, 8)):
        part = nn.Parameter(start[rows].clone())
        optimizer = muon(as_matrices([part], "q"))
        for step, gradient in enumerate(gradients):
            optimizer.param_groups[0]["lr"] = 0.02 / (1 + step)
            part.grad = gradient[rows]
            optimizer.step()
        torch.testing.assert_close(whole[rows], part.detach(), rtol=1e-12, atol=1e-15)


def test_muon_gives_the_rest_to_adamw() -> None:
    def rest(params: list[nn.Parameter]) -> Muon:
        return muon([{"params": params, "weight_decay": DECAY}])

    ours = trained(rest, weights())
    theirs = trained(
        lambda params: torch.optim.AdamW(params, lr=0.02, betas=(0.9, 0.95), weight_decay=DECAY), weights()
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_the_average_follows_the_weights(name: str) -> None:
    """(1 - decay) of each step's weights, the older the less; the first counts whole."""
    given = weights(shapes=((3, 2),))
    made = {
        "adamw": lambda: torch.optim.AdamW(given, lr=0.02),
        "lion": lambda: Lion([{"params": given}], lr=0.02, betas=(0.9, 0.99)),
    }[name]()
    optimizer = keep_average(made, decay=0.75)
    seen: list[Tensor] = []
    handle = optimizer.register_step_post_hook(lambda *_: seen.append(given[0].detach().clone()))
    trained(lambda _: optimizer, given)
    handle.remove()
    expected = seen[0]
    for each in seen[1:]:
        expected = 0.75 * expected + 0.25 * each
    torch.testing.assert_close(optimizer.state[given[0]]["ema"], expected, rtol=1e-12, atol=0.0)
