"""Optimizer states in the memory of the host: the same bits as on the device, at rest, in a checkpoint and after a restart.

Device and host are both the CPU here, and the copies between them are made all the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from dry_claims import check_claims
from pool import Pool
from programs import build, plan_of
from reference import MODELS, STEPS, filled, spec_of
from torch._subclasses.fake_tensor import FakeTensorMode

from llmc.compiler.planner.layout import Layout
from llmc.runtimes.pytorch.optimizers.host import MOMENTS, HostAdamW
from llmc.runtimes.pytorch.parallel.storage import whole_tensors

CLOSE = 1e-5
ZERO3 = Layout(dp_shard=2, zero=3)
LAYOUTS = {
    "zero 3 x 2": ZERO3,
    "replicas": Layout(dp_replicate=2),
    "zero 1 x 2, tp 2": Layout(dp_shard=2, zero=1, tp=2),
    "zero 2 x 2, pp 2": Layout(dp_shard=2, zero=2, pp=2),
}


def program_of(layout: Layout, folder: Path) -> str:
    spec = spec_of(MODELS["llama"])
    return str(build(spec, folder, plan=plan_of(spec, layout=filled(layout))))


def on_host(layout: Layout) -> Layout:
    return replace(layout, offload="optimizer")


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights, moments = (whole_tensors(checkpoint / part) for part in ("model", "optimizer"))
    assert {name.partition(".")[0] for name in moments} == set(MOMENTS)
    return {**weights, **moments}


def differing(one: Path, other: Path) -> list[str]:
    a, b = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.fixture(scope="module")
def runs(
    pool: Pool, reference_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Path]]:
    """Of a layout, the folders of two runs of two steps: where states are on the device, and where on the host."""
    made: dict[str, dict[str, Path]] = {}

    def runs(name: str) -> dict[str, Path]:
        if name not in made:
            layout, folder = LAYOUTS[name], tmp_path_factory.mktemp("runs")
            for each, where in (("device", layout), ("host", on_host(layout))):
                arguments = {"reference": str(reference_of("llama")), "checkpoints": str(folder / each / "saved")}
                program = program_of(where, folder / each / "program")
                pool.run("save", world_size=layout.devices, folder=program, **arguments)
            made[name] = {"device": folder / "device", "host": folder / "host"}
        return made[name]

    return runs


@pytest.mark.parametrize("name", LAYOUTS)
def test_states_on_the_host_change_no_bit(name: str, runs: Callable[[str], dict[str, Path]]) -> None:
    found = runs(name)
    for step in ("step-00000001", "step-00000002"):
        assert differing(found["device"] / "saved" / step, found["host"] / "saved" / step) == []


def test_twenty_steps_are_those_of_one_device(pool: Pool, reference_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Loss, norm, gradients and, through them, weights."""
    arguments: dict[str, Any] = {"reference": str(reference_of("llama")), "steps": STEPS}
    for worst in pool.run("train", world_size=2, folder=program_of(on_host(ZERO3), tmp_path), **arguments):
        assert max(worst.values()) < CLOSE, worst


@pytest.mark.parametrize("start", ["host", "device"])
@pytest.mark.parametrize("end", ["host", "device"])
def test_a_restart_goes_on_to_the_bit(
    start: str,
    end: str,
    pool: Pool,
    runs: Callable[[str], dict[str, Path]],
    reference_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Also where states are on the other side from then on."""
    found = runs("zero 3 x 2")
    shutil.copytree(found[start] / "saved" / "step-00000001", tmp_path / "one" / "step-00000001")
    arguments = {"checkpoints": str(tmp_path / "one"), "to": str(tmp_path / "two")}
    program = str(found[end] / "program")
    pool.run("go_on", world_size=2, folder=program, reference=str(reference_of("llama")), **arguments)
    assert differing(found["host"] / "saved" / "step-00000002", tmp_path / "two" / "step-00000002") == []


def test_a_rank_holds_what_the_inventory_says(tmp_path: Path) -> None:
    check_claims(spec_of(MODELS["llama"]), filled(on_host(ZERO3)), tmp_path, ranks=[0, 1])


def test_the_next_parameter_comes_down_while_one_is_updated() -> None:
    """With tensors that say they are on a GPU: which copies are asked for, in which order, and where moments are."""
    told: list[str] = []

    class Event:
        def record(self) -> None:
            told.append("queued")

        def synchronize(self) -> None:
            told.append("waited")

    def copy_(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        assert non_blocking
        told.append(f"{source.device.type} to {to.device.type}")
        return to

    events = mock.patch("torch.cuda.Event", Event)
    copies = mock.patch.object(torch.Tensor, "copy_", copy_)
    with FakeTensorMode(), events, copies:
        parameters = [torch.nn.Parameter(torch.empty(4, 4, device="cuda")) for _ in range(2)]
        optimizer = HostAdamW([{"params": parameters}], lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
        for each in parameters:
            each.grad = torch.empty_like(each)
        optimizer.step()
        where = {optimizer.state[each][name].device.type for each in parameters for name in MOMENTS}
    down, up = ["cuda to cpu", "cuda to cpu", "queued"], ["waited", "cpu to cuda"]
    assert told == [*down, *down, *up, *up]
    assert where == {"cpu"}
