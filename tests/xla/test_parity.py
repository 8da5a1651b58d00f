"""Loss, norms and gradients of programs for TPUs on 8 CPU devices equal those of PyTorch's program for one device, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import build, plan_of
from reference import MODELS, filled, on_tpu, run_alone, spec_of
from safetensors.torch import load_file
from torch import Tensor

from llmc.compiler.planner.layout import Layout

CLOSE = 1e-5
LAYOUTS = {
    "fsdp 8": Layout(dp_shard=8, zero=3),
    "fsdp 4 x tp 2": Layout(dp_shard=4, zero=3, tp=2),
    "fsdp 4 x tp 2 + sp, full recompute": Layout(dp_shard=4, zero=3, tp=2, sequence_parallel=True, recompute="full"),
    "fsdp 2 x tp 2 x cp 2": Layout(dp_shard=2, zero=3, tp=2, cp=2, cp_kind="ulysses"),
    "replicas 2 x fsdp 2 x tp 2, selective recompute": Layout(
        dp_replicate=2, dp_shard=2, zero=3, tp=2, recompute="selective"
    ),
    "replicas 8": Layout(dp_replicate=8),
}


@pytest.fixture(scope="module")
def runs(
    xla: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """What PyTorch's program for one device computed, and what that of each layout did: all in one process."""
    folder = tmp_path_factory.mktemp("xla")
    spec = spec_of(MODELS["wide"])
    run_alone(spec, folder)
    folders = {name: folder / str(number) for number, name in enumerate(LAYOUTS)}
    for name, layout in LAYOUTS.items():
        full = filled(layout) if layout.data_parallel < 8 else Layout(**{**layout.__dict__, "micro_batch": 1})
        build(on_tpu(spec), folders[name], plan=plan_of(on_tpu(spec), layout=full))
    xla(Path(__file__).parent / "worker.py", folder / "reference.safetensors", *folders.values())
    found = {name: load_file(each / "found.safetensors") for name, each in folders.items()}
    return load_file(folder / "reference.safetensors"), found


@pytest.mark.parametrize("name", LAYOUTS)
def test_programs_for_tpus_compute_what_one_device_computes(
    runs: tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]], name: str
) -> None:
    reference, found = runs[0], runs[1][name]
    steps = len(found["loss"])
    torch.testing.assert_close(found["loss"], reference["loss"][:steps], rtol=CLOSE, atol=0)
    torch.testing.assert_close(found["grad_norm"], reference["grad_norm"][:steps], rtol=CLOSE, atol=0)
    clipped = (1.0 / (found["grad_norm"][0] + 1e-6)).clamp(max=1.0)  # as the reference's are
    gradients = [each for each in found if each.startswith("gradients.")]
    assert len(gradients) == sum(each.startswith("gradients.0.") for each in reference)
    for each in gradients:
        difference = (clipped * found[each] - reference[each]).norm() / reference[each].norm()
        assert difference < CLOSE, f"{each}: {difference:.1e}"
